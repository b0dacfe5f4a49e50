"""Opening the file: its mode, its identity, its schema; and what a failure of it means."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator

from ...errors import StoreError
from . import sql

__all__ = ["MOVED", "failure", "identity", "open_file", "transaction"]

logger = logging.getLogger(__name__)

BUSY_TIMEOUT = 4.0
"""For how many seconds a call waits while another process writes to the file."""

LOOK_AGAIN = 0.001
"""After how many seconds it looks whether the other one has ended."""

LARGEST_CHECKED = 256 * 1024 * 1024
"""Bytes up to which a file is checked for damage when it is opened; that takes a second or two."""

REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it is read-only: let this user write the file and its directory",
    sqlite3.SQLITE_PERM: "access is denied: let this user write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and that this"
    " user may write there",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: wait for it, or end it",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database: choose another path, or move it away",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, save what 'sqlite3 FILE .recover' can"
    " read of it, and begin with a new one or a copy",
    sqlite3.SQLITE_IOERR: "reading or writing failed: check the disk and its quota",
}

MOVED = (
    "it was moved or deleted while it was open: put it back, or restart this program to begin with"
    " what is there now"
)


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells this file from any other, None when there is none to be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def failure(path: str, error: Exception) -> StoreError:
    """Return the StoreError that stands for this error, with the remedy where there is one."""
    if isinstance(error, StoreError):
        return error
    told = StoreError(f"the store {path} failed: {_explain(error)}")
    told.__cause__ = error
    return told


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return (
            f"{error.strerror}; check that its directory exists and that this user may write there"
        )
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # unset where the module itself objects
        return REMEDIES.get(code & 0xFF, str(error))
    return f"unexpected {type(error).__name__}"  # its text may quote what was to be stored


def open_file(path: str, clock: Callable[[], float]) -> sqlite3.Connection:
    """Return a connection to the store in this file, made for this user alone if it is new.

    Raises StoreError, sqlite3.Error or OSError, and leaves the file as it is, when it is none.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(
        os.path.abspath(path),  # what begins with "file:" may be taken for a URI
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        cached_statements=256,
    )
    try:
        if _version(connection, path) and os.path.getsize(path) <= LARGEST_CHECKED:
            _check(connection, path)
        for setting in sql.SETTINGS:
            connection.execute(setting)
        with transaction(connection):
            for migration in sql.MIGRATIONS[_version(connection, path) :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(sql.SET_VERSION)
            _set_clock(connection, clock())
        _narrow(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the schema in this file, 0 for an empty one."""
    application, version, objects = connection.execute(sql.READ_IDENTITY).fetchone()
    if application == version == objects == 0:
        return 0
    if application != sql.APPLICATION_ID:
        msg = f"the file {path} belongs to another program: choose another path"
        raise StoreError(msg)
    if version > len(sql.MIGRATIONS):
        msg = (
            f"the store {path} was made by a newer version of asana-webhooks: install that"
            " version, or choose another path"
        )
        raise StoreError(msg)
    return int(version)


def _check(connection: sqlite3.Connection, path: str) -> None:
    (found,) = connection.execute(sql.CHECK).fetchone()
    if found != "ok":
        msg = f"the store {path} failed: {REMEDIES[sqlite3.SQLITE_CORRUPT]}"
        raise StoreError(msg)


def _set_clock(connection: sqlite3.Connection, now: float) -> None:
    """End every wait if the clock began anew; in any case prove that the file can be written."""
    (latest,) = connection.execute(sql.READ_CLOCK).fetchone()
    if now < latest:
        for statement in sql.END_WAITS:
            connection.execute(statement, {"now": now})
    connection.execute(sql.SET_CLOCK, (now,))


def _narrow(path: str) -> None:
    """Let only this user read the files. By path: closing a descriptor drops SQLite's locks."""
    for file in filter(os.path.exists, (path, f"{path}-wal", f"{path}-shm")):
        try:
            mode = stat.S_IMODE(os.stat(file).st_mode)
            if mode & 0o077:
                os.chmod(file, mode & 0o700)
        except OSError as error:
            logger.warning("others may be able to read %s, which holds secrets: %s", file, error)


def _begin(connection: sqlite3.Connection) -> None:
    """Begin to write, as soon as no other process does.

    SQLite itself looks ever more rarely, at last ten times a second, and would come too late again
    and again: a busy process lets go of the file for an instant between two transactions.
    """
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(LOOK_AGAIN)
        else:
            return


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or nothing of it."""
    _begin(connection)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # what failed may have rolled back already
            connection.execute("ROLLBACK")
        raise
