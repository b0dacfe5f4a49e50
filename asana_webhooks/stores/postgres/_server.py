"""The pool, the calls that are under way, and the schema that they need."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib import resources
from typing import Any, Protocol

import anyio

from ..._deadline import Deadline
from ...errors import StoreError
from ._address import Address
from ._errors import LOST, READ_ONLY, cause_of, failure, is_deadlock

__all__ = ["Connection", "Pool", "Server", "connect", "hidden", "library"]

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 4.0
"""Seconds for a call with all that belongs to it."""

POOL_SIZE = 10
"""Connections of one store, opened when they are needed."""

OPEN_TIMEOUT = 30.0
"""Seconds for what opening does, which may wait for another process that migrates the schema."""

CLOSE_TIMEOUT = 9.0
"""Seconds that closing waits for calls under way."""

MIGRATIONS = (
    "2_seals_and_traces",
    "3_patient_claims",
    "4_crashes_and_owners",
    "5_progress_and_accounts",
    "6_accounts_and_writes",
)
"""The files that bring a schema from each version to the next one."""

READ_SETTINGS = """
SELECT current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('transaction_isolation') AS isolation,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync
"""
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
SET_VERSION = "UPDATE schema.meta SET version = $1"


class Connection(Protocol):
    """The part of asyncpg's connection that is used; asyncpg has no types of its own."""

    async def fetch(self, query: str, /, *args: Any, timeout: float | None = None) -> list[Any]: ...

    async def execute(self, query: str, /, *args: Any, timeout: float | None = None) -> str: ...

    def transaction(self) -> AbstractAsyncContextManager[object]: ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    async def remove_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...

    def remove_termination_listener(self, callback: Callable[..., None]) -> None: ...


class Pool(Protocol):
    """The part of asyncpg's pool that is used.

    A type checker does not know what a connection that it lends can do: that of the connection is
    passed on while the program runs.
    """

    def acquire(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[Any]: ...

    def get_max_size(self) -> int: ...

    async def close(self) -> None: ...

    def terminate(self) -> None: ...


def library() -> Any:
    """Return asyncpg; raises ValueError when it is not installed."""
    try:
        import asyncpg
    except ImportError:
        msg = "PostgresStore needs asyncpg: pip install 'asana-webhooks[postgres]'"
        raise ValueError(msg) from None
    return asyncpg


async def connect(address: Address) -> Pool:
    """Return a pool without connections yet; they are made when they are needed.

    Raises StoreError when the address names a file that is not there.
    """
    for parameter, path in address.files:
        if not os.access(path, os.R_OK):
            msg = f"the store at {address.name} cannot be opened: {parameter} is no file: {path}"
            raise StoreError(msg)
    options: dict[str, Any] = {"statement_cache_size": 0} if address.pooled else {}
    if address.system_roots:
        options["ssl"] = True
    pool: Pool = await library().create_pool(
        address.dsn,
        min_size=0,
        max_size=POOL_SIZE,
        timeout=address.connect_timeout,
        command_timeout=CALL_TIMEOUT,
        reset=_leave_session,
        **options,
    )
    return pool


async def _leave_session(_: object) -> None:
    """Take the place of the statement that resets a session: nothing in it is ever changed."""


class _Hidden(list[Any]):
    """Values for the server that are shown in no traceback: secrets, signatures, bodies."""

    def __repr__(self) -> str:
        return "<hidden>"


class _HiddenText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


def hidden(values: Iterable[Any]) -> list[Any]:
    """Return the values so that they show nothing, neither as a list nor its texts alone."""
    return _Hidden(_HiddenText(each) if isinstance(each, str) else each for each in values)


class Server:
    """The pool, and the calls that are under way."""

    def __init__(self, pool: Pool, address: Address, schema: str) -> None:
        self.pool = pool
        self.name = address.name
        self._address = address
        self._schema = schema
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deadline = Deadline(CALL_TIMEOUT)

    async def prepare(self) -> None:
        """Check the server and bring the schema up to date. Raises StoreError."""
        async with self._connection(self._address.connect_timeout) as connection:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._check(connection)
                await self._migrate(connection)

    @asynccontextmanager
    async def _connection(self, timeout: float | None) -> AsyncIterator[Connection]:
        """Lend a connection; whatever fails meanwhile is a StoreError."""
        connecting = True
        try:
            async with self.pool.acquire(timeout=timeout) as connection:
                connecting = False
                yield connection
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told as a StoreError
            raise failure(self.name, error, connecting=connecting) from cause_of(error)

    async def _check(self, connection: Connection) -> None:
        ((read_only, isolation, *risks),) = await connection.fetch(READ_SETTINGS)
        if read_only:
            msg = f"the store at {self.name} failed: {READ_ONLY}"
            raise StoreError(msg)
        if not isolation.startswith("read "):
            msg = (
                f"the store at {self.name} works at the isolation level 'read committed', not"
                f" {isolation!r}: set default_transaction_isolation for its user"
            )
            raise StoreError(msg)
        for setting, value in zip(("synchronous_commit", "fsync"), risks, strict=True):
            if value == "off":
                logger.warning(
                    "%s is off at %s: deliveries that were acknowledged are lost when the server"
                    " crashes; set it on, for this user at least",
                    *(setting, self.name),
                )

    async def _migrate(self, connection: Connection) -> None:
        """Bring the schema up to date, again when a call of an older version is in the way."""
        while await self._version(connection) < _newest():
            try:
                async with connection.transaction():
                    await self._migrate_at_once(connection)
            except Exception as error:
                if not is_deadlock(error):
                    raise

    async def _migrate_at_once(self, connection: Connection) -> None:
        await connection.fetch(LOCK, self._schema, timeout=OPEN_TIMEOUT)
        await self._create(connection)
        version = await self._version(connection)
        if version == _newest():  # somebody else did it
            return
        tables = [f"migrations/{name}.sql" for name in MIGRATIONS[version - 1 :]]
        for name in (*(tables if version else ["schema.sql"]), "functions.sql"):
            script = self._localised(_script(name))
            await connection.execute(script, timeout=OPEN_TIMEOUT)
        await connection.fetch(self._localised(SET_VERSION), _newest())

    async def _create(self, connection: Connection) -> None:
        """Create the schema, unless somebody did who may do more than this user."""
        exists = "SELECT to_regnamespace($1) IS NOT NULL"
        if not (await connection.fetch(exists, f'"{self._schema}"'))[0][0]:
            await connection.execute(f'CREATE SCHEMA "{self._schema}"')

    async def _version(self, connection: Connection) -> int:
        """Return the version of the schema, 0 when nothing is in it."""
        exists = "SELECT to_regclass($1) IS NOT NULL"
        if not (await connection.fetch(exists, f'"{self._schema}".meta'))[0][0]:
            return 0
        ((version,),) = await connection.fetch(self._localised("SELECT version FROM schema.meta"))
        if version > _newest():
            msg = (
                f"the schema {self._schema} at {self.name} was made by a newer version of"
                " asana-webhooks: install that version, or choose another schema"
            )
            raise StoreError(msg)
        return int(version)

    def start(self, function: str, *values: Any) -> asyncio.Task[list[Any]]:
        """Begin a call; it runs to its end whether or not somebody waits for it."""
        return self.keep(self._run(function, values))

    def keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have this done before the store is closed."""
        task = asyncio.create_task(work, name="asana-webhooks store")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def outcome(self, future: Awaitable[Any]) -> Any:
        """Return what a call returns. Raises StoreError when it fails, or takes too long."""
        try:
            return await self._deadline.wait_for(future)
        except TimeoutError as error:
            raise failure(self.name, error) from None

    async def call(self, function: str, *values: Any) -> list[Any]:
        """Return the rows of a function, which runs to its end even if the caller is gone."""
        rows: list[Any] = await self.outcome(asyncio.shield(self.start(function, *values)))
        return rows

    async def find_routes(self, ids: Sequence[str]) -> list[Any]:
        """Return a row for each of these routes, None for one that is not known."""
        found = {row["id"]: row for row in await self.start("find_routes", hidden(ids))}
        return [found.get(id_) for id_ in ids]

    async def ask(self, function: str, *values: Any) -> bool:
        """Return what a function says; nothing is False."""
        ((answer,),) = await self.call(function, *values)
        return bool(answer)

    async def listen(self, channel: str, heard: Callable[[], None]) -> None:
        """Call ``heard`` at each notification, until cancelled. Raises StoreError when it ends."""
        if self._address.pooled or self.pool.get_max_size() == 1:  # the calls need it
            return
        lost = asyncio.Event()
        listener, parting = (lambda *_: heard()), (lambda _: lost.set())
        async with self._connection(CALL_TIMEOUT) as connection:
            connection.add_termination_listener(parting)
            try:
                await connection.add_listener(channel, listener)
                await lost.wait()
            finally:
                # What fails here must not stand in the place of a cancellation.
                with suppress(Exception), anyio.move_on_after(CALL_TIMEOUT, shield=True):
                    connection.remove_termination_listener(parting)
                    await connection.remove_listener(channel, listener)
        raise StoreError(f"the store at {self.name} failed: {LOST}")

    async def finish(self) -> None:
        """Wait for the calls that are under way, for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _run(self, function: str, values: tuple[Any, ...]) -> list[Any]:
        given = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        statement = f"SELECT * FROM schema.{function}({given})"  # noqa: S608 - a name of ours
        try:
            async with asyncio.timeout(CALL_TIMEOUT), self._connection(None) as connection:
                return await connection.fetch(self._localised(statement), *values)
        except TimeoutError as error:
            raise failure(self.name, error) from None

    def _localised(self, text: str) -> str:
        return text.replace("schema.", f'"{self._schema}".')

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone


def _newest() -> int:
    """Return the version that ``schema.sql`` and the last migration make."""
    return len(MIGRATIONS) + 1


def _script(name: str) -> str:
    """Return the statements of a file of this package."""
    return (resources.files("asana_webhooks.stores.postgres") / name).read_text()
