"""The connection to the server: how scripts are run on it, and what its failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ...errors import StoreError
from ._scripts import Script

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["SOCKET_TIMEOUT", "Hidden", "Server", "check_client", "connect", "damage_of", "tagged"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

SOCKET_TIMEOUT = 4.0
"""For how many seconds a connection waits for the server."""

CALL_TIMEOUT = 4.4
"""For how many seconds a call waits in all: for a connection, and for the answer."""

MESSAGE_TIMEOUT = 60.0
"""For how many seconds a message is waited for at a time; unsaid, it would be SOCKET_TIMEOUT."""

MAX_CONNECTIONS = 16

IN_A_CLUSTER = "it is one of a cluster: give the store a server, or a primary, of its own"

REMEDIES = {
    "AuthenticationError": "it refused the user or the password: check both in its URL, with"
    " special characters percent-encoded",
    "BusyLoadingError": "it is still reading its data: wait for it",
    "OutOfMemoryError": "its memory is full: raise its maxmemory, or let handlers run",
    "ReadOnlyError": "it is a replica, which cannot be written: connect to the primary",
    "ConnectionError": "it cannot be reached: check that it runs, and its address",
    "TimeoutError": "it does not answer: check its load, and the network",
    "AskError": IN_A_CLUSTER,
    "ClusterError": IN_A_CLUSTER,
    "SSLError": "TLS failed: check that it speaks TLS, and who signed its certificate",
    "OSError": "it cannot be reached: check that it runs, and its address",
}
"""By the name of an error, or of the nearest of its bases."""

NO_URL = (
    "the store's URL is not one of Redis: write redis://user:password@host:port/0, with special"
    " characters of the password percent-encoded, and behind a '?' options of the redis library"
)

DISK_REMEDY = "it cannot write to its disk: see its log, and free some space"

URL = re.compile(
    r"rediss?://[^/?#\s]*(/\d*/?)?(\?[^@#]*)?|unix://[^/?#]*/[^@?#]+(\?[^@#]*)?", re.ASCII
)
"""Texts that are read as they are meant: a password with a slash would be read as host and port."""

DAMAGE = re.compile(r"DAMAGED (.+?)(?: script: .*)?")
"""Answers of scripts when a key is of another type, or holds no number where one must be."""

SETTINGS = ("maxmemory", "maxmemory-policy", "appendonly", "save")


class Hidden(bytes):
    """Bytes for the server that a traceback with local variables does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    @classmethod
    def of(cls, value: bytes | str | int) -> Hidden:
        """Return the bytes that the library would send."""
        return cls(value if isinstance(value, bytes) else str(value).encode())


def connect(url: str) -> Redis:
    """Return a client for this URL; raises ValueError when it is none, or without the library."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError:
        msg = "RedisStore needs the redis library: pip install 'asana-webhooks[redis]'"
        raise ValueError(msg) from None
    if not URL.fullmatch(url):
        raise ValueError(NO_URL)
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_TIMEOUT,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            # A repeated claim would leave its first lease to run out; who calls may call again.
            retry=Retry(NoBackoff(), 0),
        )
        pool.connection_class(**pool.connection_kwargs)  # the first would refuse an odd option
    except (ValueError, TypeError, RedisError):  # it may quote the password
        raise ValueError(NO_URL) from None
    return Redis.from_pool(pool)


def check_client(client: object) -> Redis:
    """Return this client; raises TypeError when it is of another kind, such as RedisCluster."""
    from redis.asyncio import Redis

    if not isinstance(client, Redis):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        msg = f"a RedisStore takes a URL or a redis.asyncio.Redis, not a {kind}"
        raise TypeError(msg)
    return client


def tagged(prefix: str) -> str:
    """Return the prefix with its name as a hash tag, so that a cluster keeps all in one slot."""
    name = prefix.rstrip(":")
    if not name:
        msg = "a store's prefix must have a name in it"
        raise ValueError(msg)
    return f"{{{name}}}:"


class Server:
    """Runs scripts; whatever goes wrong is a StoreError.

    ``prefix`` is what all keys begin with.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        from redis.client import NEVER_DECODE
        from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

        self.client = client
        self.address = _address(client)
        self.prefix = prefix
        self._channel = f"{prefix}arrivals"
        self._raw = {NEVER_DECODE: True}  # whatever a client that was given would do
        self._no_script, self._refused = NoScriptError, ResponseError
        self._no_permission = NoPermissionError
        self._failures = (RedisError, OSError, TimeoutError)
        self._denied: set[str] = set()

    def run(self, script: Script, *arguments: bytes | str | int) -> Awaitable[Any]:
        """Return the script's answer, with bytes for text.

        This is no coroutine, so that no frame of a traceback has the arguments as they are.
        """
        return self._run(script, (1, self.prefix, *map(Hidden.of, arguments)))

    async def _run(self, script: Script, arguments: tuple[Any, ...]) -> Any:
        execute: Any = self.client.execute_command  # its arguments have no types
        with self._store_errors():
            async with asyncio.timeout(CALL_TIMEOUT):
                try:
                    call = execute("EVALSHA", script.sha, *arguments, **self._raw)
                    return await _propagate_cancel(call)
                except self._no_script:
                    call = execute("EVAL", script.text, *arguments, **self._raw)
                    return await _propagate_cancel(call)

    async def publish(self) -> None:
        """Send an empty message to all who subscribe, unless the user may not."""
        if "publish" in self._denied:
            return
        with self._store_errors():
            async with asyncio.timeout(CALL_TIMEOUT):
                try:
                    await _propagate_cancel(self.client.publish(self._channel, b""))
                except self._no_permission:
                    self._deny("publish")

    async def subscribe(self, heard: Callable[[], None]) -> None:
        """Call ``heard`` at each message, until cancelled; return at once if the user may not."""
        if getattr(self.client.connection_pool, "max_connections", None) == 1:  # for the calls
            return
        with self._store_errors():
            async with self.client.pubsub(ignore_subscribe_messages=True) as channel:
                try:
                    await _propagate_cancel(channel.subscribe(self._channel))
                    while True:
                        waiting = channel.get_message(timeout=MESSAGE_TIMEOUT)
                        if await _propagate_cancel(waiting) is not None:
                            heard()
                except self._no_permission:
                    self._deny("subscribe")

    def _deny(self, command: str) -> None:
        """Note that the user may not do this, and say so once."""
        if not self._denied:
            logger.warning(
                "the user of the Redis server at %s may not notify or listen, so deliveries that"
                " another process stored are found within a second: grant it +publish +subscribe"
                " +unsubscribe &%s",
                self.address,
                self._channel,
            )
        self._denied.add(command)

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Raise a StoreError for whatever goes wrong at the server or on the way."""
        try:
            yield
        except self._failures as error:
            msg = f"the store on {self.address} failed: {self._explain(error)}"
            for cause in _causes(error):  # frames of the library have what was sent
                cause.__traceback__ = None
            raise StoreError(msg) from error

    def _explain(self, error: Exception) -> str:
        """Return the remedy for the innermost cause that has one; redis wraps what it meets."""
        text = str(error)
        if text.startswith("MISCONF"):
            return DISK_REMEDY
        if damage := damage_of(text):
            return damage
        if isinstance(error, self._refused) and "permissions" in text:
            return f"its user {_missing_right(text, self.prefix)} (ACL SETUSER)"
        for cause in reversed(list(_causes(error))):
            for base in type(cause).__mro__:
                if base.__name__ in REMEDIES:
                    return REMEDIES[base.__name__]
        return f"unexpected {type(error).__name__}"  # its text may quote what was to be stored

    async def check(self) -> None:
        """Log what the server's settings may cost, and which it does not tell."""
        with self._store_errors():
            async with asyncio.timeout(CALL_TIMEOUT):
                settings = await self._settings()
        for risk in _risks(settings):
            logger.warning("the Redis server at %s %s", self.address, risk)
        untold = [name for name in ("maxmemory-policy", "appendonly") if name not in settings]
        if untold:
            logger.warning(
                "whether the Redis server at %s keeps everything could not be checked, neither"
                " CONFIG GET nor INFO tells its %s: it should have maxmemory-policy noeviction and"
                " appendonly yes",
                self.address,
                " and ".join(untold),
            )

    async def _settings(self) -> dict[str, str]:
        """Return the settings that matter, as far as this user may know them."""
        settings: dict[str, str] = {}
        with contextlib.suppress(self._refused):
            told = {**await self.client.info("memory"), **await self.client.info("persistence")}
            settings = {
                name.replace("_", "-"): str(told[name])
                for name in ("maxmemory", "maxmemory_policy")
                if name in told
            }
            if "aof_enabled" in told:
                settings["appendonly"] = "yes" if told["aof_enabled"] else "no"
        with contextlib.suppress(self._refused):  # hosted servers forbid it
            settings |= {
                str(k): str(v) for k, v in (await self.client.config_get(*SETTINGS)).items()
            }
        return settings


async def _propagate_cancel(call: Awaitable[T]) -> T:
    """Return what a call of the library returns. Raises a cancellation that it swallowed.

    The library waits with ``asyncio.wait_for``, which before Python 3.12 forgets a cancellation
    that comes together with the answer. That of a scope of anyio comes again by itself.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
    requests = task.cancelling()

    def raise_what_was_swallowed() -> None:
        if task.cancelling() > requests and anyio.current_effective_deadline() > -math.inf:
            # By its message anyio knows a cancellation that is its own.
            raise asyncio.CancelledError(getattr(task, "_cancel_message", None))

    try:
        result = await call
    except Exception:
        raise_what_was_swallowed()
        raise
    raise_what_was_swallowed()
    return result


def damage_of(answer: str) -> str | None:
    """Return what to do about a damaged key that this answer of a script names; None for others."""
    damage = DAMAGE.fullmatch(answer)
    if damage is None:
        return None
    return (
        f"its key {damage[1]} is damaged, something else has written to it: restore a copy, or"
        " delete it with what it holds"
    )


def _missing_right(refusal: str, prefix: str) -> str:
    command = re.search(r"run the '([a-z|]+)' command", refusal)
    if command:
        return f"may not run {command[1]}: grant it +{command[1]}"
    return f"may not use these keys: grant it ~{prefix}*"


def _address(client: Redis) -> str:
    pool = client.connection_pool
    settings = pool.connection_kwargs
    address = f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return str(settings.get("path") or getattr(pool, "service_name", address))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _risks(settings: dict[str, str]) -> list[str]:
    risks = []
    policy = settings.get("maxmemory-policy", "noeviction")
    if settings.get("maxmemory") != "0" and policy != "noeviction":
        risks.append(
            f"evicts keys (maxmemory-policy {policy}): when its memory is full, deliveries that"
            " were answered 200 are lost; set it to noeviction"
        )
    if settings.get("appendonly", "yes") != "yes":
        lost = "everything" if settings.get("save") == "" else "what came since its last snapshot"
        risks.append(
            f"keeps no append-only file: when it stops, {lost} is lost, routes and their secrets"
            " included; set appendonly yes"
        )
    return risks
