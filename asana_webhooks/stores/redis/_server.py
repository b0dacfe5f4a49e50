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

__all__ = ["SOCKET_TIMEOUT", "Server", "connect", "tagged"]

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
    "NoPermissionError": "its user may not do this: allow it EVALSHA, EVAL and the commands of"
    " scripts on the keys of the prefix",
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
"""What is read as it is meant: a password with a slash in it would be taken for host and port."""


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


def usable(client: object) -> Redis:
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
    """Runs scripts; whatever goes wrong is a StoreError."""

    def __init__(self, client: Redis, prefix: str) -> None:
        from redis.client import NEVER_DECODE
        from redis.exceptions import NoScriptError, RedisError

        self.client = client
        self.place = _place(client)
        self._prefix = prefix
        self._channel = f"{prefix}arrivals"
        self._raw = {NEVER_DECODE: True}  # whatever a client that was given would do
        self._unknown = NoScriptError
        self._failures = (RedisError, OSError, TimeoutError)

    async def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Return the script's answer, with bytes for text."""
        execute: Any = self.client.execute_command  # its arguments have no types
        rest = (1, self._prefix, *arguments)
        with self._told():
            async with asyncio.timeout(CALL_TIMEOUT):
                try:
                    return await _propagate_cancel(
                        execute("EVALSHA", script.sha, *rest, **self._raw)
                    )
                except self._unknown:
                    return await _propagate_cancel(execute("EVAL", script.text, *rest, **self._raw))

    async def publish(self) -> None:
        """Send an empty message to all who subscribe."""
        with self._told():
            async with asyncio.timeout(CALL_TIMEOUT):
                await _propagate_cancel(self.client.publish(self._channel, b""))

    async def subscribe(self, heard: Callable[[], None]) -> None:
        """Call ``heard`` at each message, until cancelled."""
        if getattr(self.client.connection_pool, "max_connections", None) == 1:  # for the calls
            return
        with self._told():
            async with self.client.pubsub(ignore_subscribe_messages=True) as channel:
                await _propagate_cancel(channel.subscribe(self._channel))
                while True:
                    if (
                        await _propagate_cancel(channel.get_message(timeout=MESSAGE_TIMEOUT))
                        is not None
                    ):
                        heard()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise a StoreError for whatever goes wrong at the server or on the way."""
        try:
            yield
        except self._failures as error:
            msg = f"the store on {self.place} failed: {_explain(error)}"
            raise StoreError(msg) from error

    async def check(self) -> None:
        """Log what the server's settings may cost."""
        try:
            risks = _risks(
                await self.client.config_get("maxmemory", "maxmemory-policy", "appendonly", "save")
            )
        except (*self._failures, KeyError):  # what only speaks as Redis does may know fewer
            logger.info(
                "whether the Redis server at %s keeps everything could not be checked, CONFIG GET"
                " does not tell: it should have maxmemory-policy noeviction and appendonly yes",
                self.place,
            )
            return
        for risk in risks:
            logger.warning("the Redis server at %s %s", self.place, risk)


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


def _place(client: Redis) -> str:
    pool = client.connection_pool
    settings = pool.connection_kwargs
    address = f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return str(settings.get("path") or getattr(pool, "service_name", address))


def _explain(error: Exception) -> str:
    """Return the remedy for the innermost cause that has one; redis wraps what it meets."""
    if str(error).startswith("MISCONF"):
        return DISK_REMEDY
    for cause in reversed(list(_causes(error))):
        for base in type(cause).__mro__:
            if base.__name__ in REMEDIES:
                return REMEDIES[base.__name__]
    return f"unexpected {type(error).__name__}"  # its text may quote what was to be stored


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _risks(settings: dict[Any, Any]) -> list[str]:
    risks = []
    policy = settings["maxmemory-policy"]
    if settings["maxmemory"] != "0" and policy != "noeviction":
        risks.append(
            f"evicts keys (maxmemory-policy {policy}): when its memory is full, deliveries that"
            " were answered 200 are lost; set it to noeviction"
        )
    if settings["appendonly"] != "yes":
        lost = "what came since its last snapshot" if settings["save"] else "everything"
        risks.append(
            f"keeps no append-only file: when it stops, {lost} is lost, routes and their secrets"
            " included; set appendonly yes"
        )
    return risks
