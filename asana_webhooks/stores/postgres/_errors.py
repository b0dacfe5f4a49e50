"""What failures of the server mean."""

from __future__ import annotations

from ...errors import StoreError

__all__ = ["REMEDIES", "DamagedError", "UnfitError", "cause_of", "failure", "is_deadlock"]

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
    "XX": "it cannot read what it has stored: see its log, check its disk, restore a copy",
    "58": "reading or writing failed there: see its log, check its disk",
}

LOST = {"InterfaceError", "InternalClientError"}
"""What asyncpg raises, without a SQLSTATE, when a connection ends while it is being used."""


class DamagedError(StoreError):
    """The server could not read what it has stored."""


class UnfitError(StoreError):
    """What was to be stored is at fault, not the server."""


def failure(name: str, error: Exception) -> StoreError:
    """Return the StoreError that stands for this error, with the remedy where there is one."""
    if isinstance(error, StoreError):
        return error
    if _quotes_values(error) and not _is_about_the_address(error):
        msg = f"the store at {name} failed: PostgreSQL cannot hold this ({type(error).__name__})"
        return UnfitError(msg)
    kind = DamagedError if _state(error).startswith("XX") else StoreError
    return kind(f"the store at {name} failed: {_explain(error)}")


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
