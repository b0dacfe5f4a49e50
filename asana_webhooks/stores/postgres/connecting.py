"""The way to the server: its address, its pool, and what its failures mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import StoreError

__all__ = [
    "CALL_TIMEOUT",
    "CONNECT_TIMEOUT",
    "REMEDIES",
    "Connection",
    "Pool",
    "UnfitError",
    "cause_of",
    "connect",
    "failure",
    "is_deadlock",
    "library",
    "name_of",
]

CONNECT_TIMEOUT = CALL_TIMEOUT = 4.0
"""Seconds for a connection, and for a call with all that belongs to it."""

POOL_SIZE = 10
"""Connections of one store, opened when they are needed."""

POOLED = (
    "what stands before it mixes up prepared statements: PgBouncer needs version 1.21 and"
    " max_prepared_statements above 0, or pool_mode = session"
)

# By the beginning of the error's SQLSTATE. https://www.postgresql.org/docs/current/errcodes-appendix.html
REMEDIES = {
    "08": "the connection was lost: check that the server runs, and the network",
    "25006": "it is read-only: connect to the primary, not to a standby",
    "26": POOLED,
    "28": "it refuses this user: check user and password, and the server's pg_hba.conf",
    "3D": "it has no such database: create it, or correct the address",
    "3F": "its schema is gone: open the store again to have it made anew",
    "40": "another call was in the way: try again",
    "42P05": POOLED,
    "42704": "there is no such setting: correct what stands behind the '?' of its address",
    "42501": "permission is denied: let this user create and use the schema",
    "42": "its schema is damaged, or changed by a newer version: install that, or restore it",
    "53100": "its disk is full: free some space",
    "53300": "it has too many connections: raise max_connections, or put PgBouncer before it",
    "53": "it is short of resources: see its log",
    "57014": "the call was cancelled there: raise its statement_timeout above 4 s",
    "57P": "it is starting or stopping: wait for it",
    "58": "reading or writing failed there: see its log, check its disk",
}

LOST = {"InterfaceError", "InternalClientError"}
"""What asyncpg raises, without a SQLSTATE, when a connection ends while it is being used."""


class Connection(Protocol):
    """What is used of a connection of asyncpg, which has no types of its own."""

    async def fetch(self, query: str, /, *args: Any, timeout: float | None = None) -> list[Any]: ...

    async def execute(self, query: str, /, *args: Any, timeout: float | None = None) -> str: ...

    def transaction(self) -> AbstractAsyncContextManager[object]: ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    async def remove_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...

    def remove_termination_listener(self, callback: Callable[..., None]) -> None: ...


class Pool(Protocol):
    """What is used of a pool of asyncpg."""

    def acquire(
        self, *, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Connection]: ...

    def get_max_size(self) -> int: ...

    async def close(self) -> None: ...

    def terminate(self) -> None: ...


class UnfitError(StoreError):
    """What was to be stored is at fault, not the server."""


def library() -> Any:
    """Return asyncpg; raises ValueError when it is not installed."""
    try:
        import asyncpg  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        msg = "PostgresStore needs asyncpg: pip install 'asana-webhooks[postgres]'"
        raise ValueError(msg) from None
    return asyncpg


async def connect(dsn: str) -> Pool:
    """Return a pool without connections yet; they are made when they are needed."""
    asyncpg = library()
    pool: Pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=POOL_SIZE,
        timeout=CONNECT_TIMEOUT,
        command_timeout=CALL_TIMEOUT,
        reset=_leave_session,
    )
    return pool


async def _leave_session(_: object) -> None:
    """Take the place of the statement that resets a session: nothing in it is ever changed."""


def failure(name: str, error: Exception) -> StoreError:
    """Return the StoreError that stands for this error, with the remedy where there is one."""
    if isinstance(error, StoreError):
        return error
    if _quotes_values(error) and not _is_about_the_address(error):
        msg = f"the store at {name} failed: PostgreSQL cannot hold this ({type(error).__name__})"
        return UnfitError(msg)
    return StoreError(f"the store at {name} failed: {_explain(error)}")


def _quotes_values(error: Exception) -> bool:
    """Return whether the text of an error may quote what was to be stored: no log should."""
    return isinstance(error, ValueError) or _state(error)[:2] in {"22", "23"}


def _is_about_the_address(error: Exception) -> bool:
    return type(error).__name__ == "ClientConfigurationError"


def cause_of(error: Exception) -> Exception | None:
    """Return what may stand in a traceback as the cause."""
    return None if isinstance(error, StoreError) or _quotes_values(error) else error


def is_deadlock(error: Exception) -> bool:
    """Return whether this transaction and another waited for each other, and this one lost."""
    return _state(error) == "40P01"


def _state(error: Exception) -> str:
    return getattr(error, "sqlstate", None) or ""


def _explain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer: check that the server runs, its load, and the network"
    if isinstance(error, OSError):
        cause = error.strerror or str(error)
        return f"it cannot be reached: {cause}; check the address, and that the server runs"
    if _is_about_the_address(error):
        return "its address asks for what asyncpg does not know: correct what stands behind its '?'"
    if type(error).__name__ in LOST:
        return REMEDIES["08"]
    state = _state(error)
    for beginning, remedy in REMEDIES.items():
        if state.startswith(beginning):
            return remedy
    return f"unexpected {type(error).__name__} {state}".rstrip()


def name_of(dsn: str) -> str:
    """Return what may be shown of an address: hosts and database."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise ValueError(UNREADABLE) from None  # the error quotes the address
    if parts.scheme not in {"postgresql", "postgres"}:
        msg = "the address of a PostgreSQL server begins with 'postgresql://'"
        raise ValueError(msg)
    login, _, hosts = parts.netloc.rpartition("@")
    if "@" in f"{login}{parts.path}{parts.query}{parts.fragment}" or not HOSTS.fullmatch(hosts):
        raise ValueError(UNREADABLE)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host = hosts or ":".join(query[name] for name in ("host", "port") if name in query)
    database = parts.path[1:] or query.get("dbname") or query.get("database", "")
    return unquote(f"postgresql://{host}/{database}")


UNREADABLE = (
    "the address of the PostgreSQL server cannot be read: percent-encode what is no letter or"
    " digit in its user and password"
)
HOSTS = re.compile(r"(?:(?:[\w.%-]*|\[[\w:.%]+\])(?::\d+)?,?)*")
