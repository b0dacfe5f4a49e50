"""Failures of the server: their meaning, and what to do about them.

The texts are ours: those of asyncpg and of the server may quote what was to be stored, or the
address with its password.
"""

from __future__ import annotations

import errno
import socket
import ssl

from ...errors import StoreError

__all__ = ["LOST", "READ_ONLY", "DamagedError", "UnfitError", "cause_of", "failure", "is_deadlock"]

LOST = "the connection was lost: check that the server runs, and the network"
READ_ONLY = "it is read-only: connect to the primary, not to a standby"
POOLED = (
    "what stands before it mixes up prepared statements: PgBouncer needs version 1.21 and"
    " max_prepared_statements above 0, or pool_mode = session; else add pgbouncer=true to the"
    " parameters of its address"
)
SETTINGS = (
    "it refuses a setting of its address: correct options, and what else stands behind the '?'"
)

# By the beginning of the error's SQLSTATE. https://www.postgresql.org/docs/current/errcodes-appendix.html
REMEDIES = {
    "08": LOST,
    "25006": READ_ONLY,
    "26": POOLED,
    "28": "it refuses this user: check user and password, and the server's pg_hba.conf",
    "3D": "it has no such database: create it, or correct the address",
    "3F": "its schema is gone: open the store again to have it made anew",
    "40": "another call was in the way: try again",
    "42P05": POOLED,
    "42501": "permission is denied: let this user create and use the schema",
    "42": "its schema is damaged, or changed by a newer version: install that, or restore it",
    "53100": "its disk is full: free some space",
    "53300": "it has too many connections: raise max_connections, or put PgBouncer before it",
    "53": "it is short of resources: see its log",
    "57014": "the call was cancelled there: raise its statement_timeout above 4 s",
    "57P": "it is starting or stopping: wait for it",
    "58": "reading or writing failed there: see its log, check its disk",
    "XX000": "an error within it: see its log; where that tells of damage, restore a copy",
    "XX": "it cannot read what it has stored: see its log, check its disk, restore a copy",
}
REMEDIES_OF_CONNECTING = {
    "08": "what answers there refuses the connection: check host and port, and a pooler's log",
    "0A": SETTINGS,
    "22": SETTINGS,
    "25": READ_ONLY,
    "42501": "this user may not connect to the database: grant it CONNECT",
    "42": SETTINGS,
    "XX": (
        "what answers there refuses the connection: a pooler does when it does not know the user"
        " or the project, or when all its connections are in use; see its log"
    ),
}
UNENCRYPTED = (
    "it refuses this user without TLS: add sslmode=require to the parameters of its address"
)
NO_ANSWER = "it does not answer: check that the server runs, its load, and the network"
NO_PRIMARY = "no host of its address may be written to: check target_session_attrs, and which leads"
NO_AUTHORITY = (
    "its certificate is to be verified: name the file of the authority with sslrootcert, or write"
    " sslrootcert=system for those that this machine trusts"
)

OF_THE_CLIENT = {
    "ClientConfigurationError": NO_AUTHORITY,
    "InterfaceError": LOST,
    "InternalClientError": LOST,
    "TargetServerAttributeNotMatched": NO_PRIMARY,
}
"""Errors of asyncpg without a SQLSTATE; the second and third when a connection ends."""


class DamagedError(StoreError):
    """The server could not read what it has stored."""


class UnfitError(StoreError):
    """The value to be stored is at fault, not the server."""


def failure(name: str, error: Exception, *, connecting: bool = False) -> StoreError:
    """Return the StoreError that stands for this error, with the remedy where there is one."""
    if isinstance(error, StoreError):
        return error
    remedy = _remedy(error, connecting=connecting)
    if remedy is None and not connecting and _quotes_values(error):
        msg = f"the store at {name} failed: PostgreSQL cannot hold this ({type(error).__name__})"
        return UnfitError(msg)
    remedy = remedy or f"unexpected {type(error).__name__} {_state(error)}".rstrip()
    damaged = _state(error).startswith("XX") and not connecting
    kind = DamagedError if damaged else StoreError
    return kind(f"the store at {name} failed: {remedy}")


def cause_of(error: Exception) -> Exception | None:
    """Return what may stand in a traceback as the cause: its text is known, its frames are gone."""
    error.__cause__ = error.__context__ = None
    error.__traceback__ = None  # its frames hold the address and what was to be stored
    known = _remedy(error) is not None and not isinstance(error, (ValueError, TimeoutError))
    return error if known else None


def is_deadlock(error: Exception) -> bool:
    """Return whether this transaction and another waited for each other, and this one lost."""
    return _state(error) == "40P01"


def _state(error: Exception) -> str:
    return getattr(error, "sqlstate", None) or ""


def _quotes_values(error: Exception) -> bool:
    return isinstance(error, ValueError) or _state(error)[:2] in {"22", "23"}


def _remedy(error: Exception, *, connecting: bool = False) -> str | None:
    """Return what failed, and what to do, None when that is not known."""
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, OSError):
        return _explain(error)
    state = _state(error)
    if state == "28000" and any(sign in str(error) for sign in SIGNS_OF_NO_TLS):
        return UNENCRYPTED
    for remedies in (REMEDIES_OF_CONNECTING if connecting else {}, REMEDIES):
        for beginning, remedy in remedies.items():
            if state.startswith(beginning):
                return remedy
    return OF_THE_CLIENT.get(type(error).__name__)


SIGNS_OF_NO_TLS = ("no encryption", "SSL off", "insecure")
"""As servers and poolers write it when a connection is not encrypted."""


def _explain(error: OSError) -> str:
    """Return why there is no connection."""
    if isinstance(error, socket.gaierror):
        return "its host is unknown: correct its name in the address, or check the DNS"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}): name its authority with"
            " sslrootcert, and the host as the certificate does"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason}): check sslmode, and the files that the address names"
    if "rejected SSL upgrade" in str(error):
        return "it speaks no TLS: turn on ssl there, or write sslmode=disable"
    if isinstance(error, FileNotFoundError):
        return "it cannot be reached: there is no socket; check host, and that the server runs"
    if error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return "it cannot be reached: nobody listens; check host and port, and that it runs"
    return f"it cannot be reached: {error.strerror or 'the reason is unknown'}; check the network"
