"""The file: how it is opened, its schema, its transactions, and what a failure of it means."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import stat
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

from ...errors import StoreError
from .. import RETIRED_KNOWN_FOR

__all__ = ["SQL", "FileGuard", "failure", "open_file", "sync", "text_of", "transaction"]

logger = logging.getLogger(__name__)

BUSY_TIMEOUT = 4.0
"""For how many seconds a call waits while another process writes to the file."""

LOOK_AGAIN = 0.001
"""After how many seconds it looks whether the other one has ended."""

LARGEST_CHECKED = 256 * 1024 * 1024
"""Bytes up to which a file is checked for damage when it is opened; that takes a second or two."""

APPLICATION_ID = 0x41574B53

SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA journal_size_limit = 4194304",  # what a flood left of the log is given back
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 0",  # from then on a transaction does its own waiting
)

DAMAGED = (
    "it is damaged: move it away, save what 'sqlite3 FILE .recover' can read of it, and begin with"
    " a new one or a copy"
)

REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it is read-only: let this user write the file and its directory",
    sqlite3.SQLITE_PERM: "access is denied: let this user write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and that this"
    " user may write there",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: wait for it, or end it",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database: choose another path, or move it away",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_IOERR: "reading or writing failed: check the disk and its quota",
    sqlite3.SQLITE_TOOBIG: "a text or body is larger than SQLite takes",
}

MOVED = (
    "it was moved or deleted while it was open: put it back, or restart this program to begin with"
    " what is there now"
)
LOG_LOST = (
    "its write-ahead log was deleted or cut while it was open: stop this program in order, which"
    " saves what it holds, and start it again"
)
CUT = (
    "it was cut while it was open, and what was behind the cut is lost: stop this program, and"
    " begin with a new file or a copy"
)
EMPTIED = (
    "it is empty or gone, but its write-ahead log is there: put the file back from a copy, or move"
    " the log away too to begin anew"
)


def _sections(file: str) -> dict[str, str]:
    """Return the parts of a file of SQL by the names above them, without comments."""
    text = resources.files("asana_webhooks.stores.sqlite").joinpath(file).read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    names, bodies = parts[1::2], parts[2::2]
    return {
        name: re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip()
        for name, body in zip(names, bodies, strict=True)
    }


def _statements(script: str) -> tuple[str, ...]:
    """Return the single statements of a script; those of a trigger stay together."""
    statements, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return tuple(statements)


SQL = _sections("statements.sql")
"""The statements by their names."""

MIGRATIONS = tuple(_statements(script) for script in _sections("schema.sql").values())
"""The steps that make each version of the schema from the one before it."""


def failure(path: str, error: Exception) -> StoreError:
    """Return the StoreError that stands for this error, with the remedy where there is one.

    Tracebacks are left out, since their frames hold what was to be stored; where an error was not
    expected, a note says where it was raised.
    """
    if isinstance(error, StoreError):
        error.__context__ = None
        return error.with_traceback(None)
    told = StoreError(f"the store {path} failed: {_explain(error)}")
    if _is_classified(error):
        told.__cause__ = error.with_traceback(None)
    else:
        told.add_note("".join(traceback.format_tb(error.__traceback__)))
    return told


def _is_classified(error: Exception) -> bool:
    """Return whether the error's own text quotes no value: it is the system's or SQLite's."""
    return isinstance(error, OSError) or hasattr(error, "sqlite_errorcode")


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return (
            f"{error.strerror}; check that its directory exists and that this user may write there"
        )
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return REMEDIES.get(code & 0xFF, str(error))
    if isinstance(error, UnicodeEncodeError):
        return "a text that was to be stored is no valid Unicode"
    return f"unexpected {type(error).__name__}"  # its text may quote what was to be stored


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether it is only that another process writes."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def open_file(path: str, clock: Callable[[], float]) -> sqlite3.Connection:
    """Return a connection to the store in this file, made for this user alone if it is new.

    Raises StoreError, sqlite3.Error or OSError, and leaves the file as it is, when it is none.
    """
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return _open(path, clock)
        except sqlite3.Error as error:  # SQLite waits for some locks of others, not for all
            if not is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(LOOK_AGAIN)


def _open(path: str, clock: Callable[[], float]) -> sqlite3.Connection:
    if _size(path) == 0 and _size(f"{path}-wal"):  # SQLite would delete the log
        msg = f"the store {path} failed: {EMPTIED}"
        raise StoreError(msg)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(
        os.path.abspath(path),  # what begins with "file:" may be taken for a URI
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        cached_statements=256,
    )
    connection.text_factory = text_of
    try:
        if _version(connection, path):
            _check(connection, path)
        else:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for setting in SETTINGS:
            connection.execute(setting)
        with transaction(connection):
            for migration in MIGRATIONS[_version(connection, path) :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            _set_clock(connection, clock())
        _narrow(path)
    except BaseException:
        connection.close()
        raise
    return connection


def text_of(value: bytes) -> str | bytes:
    """Return a text; as bytes when it is damaged. The error of sqlite3 would quote it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the schema in this file, 0 for an empty one."""
    application, version, objects = connection.execute(SQL["read_identity"]).fetchone()
    if application == version == objects == 0:
        return 0
    if application != APPLICATION_ID:
        msg = f"the file {path} belongs to another program: choose another path"
        raise StoreError(msg)
    if version > len(MIGRATIONS):
        msg = (
            f"the store {path} was made by a newer version of asana-webhooks: install that"
            " version, or choose another path"
        )
        raise StoreError(msg)
    return int(version)


def _check(connection: sqlite3.Connection, path: str) -> None:
    """Raise StoreError for damage; of a large file only its length is checked."""
    (length,) = connection.execute(SQL["read_length"]).fetchone()
    size = _size(path)
    sound = size + _size(f"{path}-wal") >= length and (
        size > LARGEST_CHECKED or _is_sound(connection)
    )
    if not sound:
        msg = f"the store {path} failed: {DAMAGED}"
        raise StoreError(msg)


def _is_sound(connection: sqlite3.Connection) -> bool:
    (found,) = connection.execute(SQL["check"]).fetchone()
    return bool(found == "ok")


def _size(path: str) -> int:
    """Return the size of a file, 0 when there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _set_clock(connection: sqlite3.Connection, now: float) -> None:
    """End every wait if the clock began anew; in any case prove that the file can be written.

    When its last reading cannot be read any more, it counts as begun anew.
    """
    latest = connection.execute(SQL["read_clock"]).fetchone()
    if latest is None:
        connection.execute(SQL["make_meta"])
    reading: Any = latest and latest[0]
    damaged = not isinstance(reading, float)
    if damaged:
        logger.error("the clock in table meta was damaged: every lease and wait is at its end")
    if damaged or now < reading:
        for name in ("end_delays", "end_leases", "end_reservations"):
            connection.execute(SQL[name], {"now": now})
        known_for = RETIRED_KNOWN_FOR.total_seconds()
        connection.execute(SQL["retire_again"], {"now": now, "known_for": known_for})
        connection.execute(SQL["end_ownerships"])
        connection.execute(SQL["end_holds"])
    connection.execute(SQL["set_clock"], (now,))


def _narrow(path: str) -> None:
    """Restrict the files to this user. By path: closing a descriptor drops SQLite's locks."""
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
            if not is_busy(error) or time.monotonic() > end:
                raise
            time.sleep(LOOK_AGAIN)
        else:
            return


def sync(connection: sqlite3.Connection, *, always: bool) -> None:
    """Have each commit wait for the disk from now on, or only checkpoints."""
    # SQLite sets it while it prepares the statement: one that Python keeps would do nothing again
    connection.executescript(f"PRAGMA synchronous = {'FULL' if always else 'NORMAL'}")


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


class FileGuard:
    """Sees whether the file and its log are those that were opened, and nothing was cut off.

    SQLite writes on to a file that was deleted or cut, and what it commits is lost with the
    process. How long the log must be stands in the index that SQLite shares between processes (the
    ``-shm`` file, https://sqlite.org/walformat.html).
    """

    def __init__(self, path: str) -> None:
        """Begin to guard a store that is open. Raises OSError when a file of it is gone."""
        self.steps = 0
        self._path = os.path.abspath(path)  # wherever the program goes
        self._files = (self._path, f"{self._path}-wal", f"{self._path}-shm")
        self._known = [_identity(found) for found in map(os.stat, self._files)]
        self._size = os.path.getsize(self._path)
        self._index = os.open(f"{self._path}-shm", os.O_RDONLY)

    def close(self) -> None:
        """Close the index. To be called after SQLite closed it: its locks go with this."""
        os.close(self._index)

    def shrunk(self) -> None:
        """Take the file to be as long as it must be: pages of it were given back."""
        self._size = os.path.getsize(self._path)

    def problem(self) -> str | None:
        """Return why what was committed may be lost, None when it is safe."""
        try:
            file, log, index = map(self._stat, self._files)
            if file is None or _identity(file) != self._known[0]:
                return MOVED
            if log is None or index is None or not self._log_is_whole(log, index):
                return LOG_LOST
            if file.st_size < self._size and not self._is_sound(file.st_size):
                return CUT
        except (OSError, sqlite3.Error) as error:
            return _explain(error)
        except struct.error:  # the index was cut
            return LOG_LOST
        self._size = file.st_size
        return None

    def _stat(self, path: str) -> os.stat_result | None:
        self.steps += 1
        try:
            return os.stat(path)
        except FileNotFoundError:
            return None

    def _log_is_whole(self, log: os.stat_result, index: os.stat_result) -> bool:
        if [_identity(log), _identity(index)] != self._known[1:]:
            return False
        header = self._read_index()
        while True:
            if not header.frames or _size(self._files[1]) >= header.log_size:
                return True
            before, header = header, self._read_index()
            if header == before:  # no other process began the log anew meanwhile
                return False

    def _is_sound(self, size: int) -> bool:
        """Return whether nothing is lost though the file became shorter.

        A process may have given free pages back. SQLite must not look at an empty file: it would
        delete the log.
        """
        header = self._read_index()
        if size >= header.pages * header.page_size:
            return True
        if size == 0:
            return False
        with contextlib.closing(sqlite3.connect(self._path, timeout=BUSY_TIMEOUT)) as connection:
            try:
                return _is_sound(connection)
            except sqlite3.DatabaseError as error:
                if is_busy(error):
                    raise
                return False

    def _read_index(self) -> _IndexHeader:
        page_size, frames, pages = struct.unpack_from("=HII", os.pread(self._index, 48, 0), 14)
        return _IndexHeader((page_size & 0xFE00) + ((page_size & 1) << 16), frames, pages)


class _IndexHeader(NamedTuple):
    """Read the index of the log: frames of the log, pages of the whole database."""

    page_size: int
    frames: int
    pages: int

    @property
    def log_size(self) -> int:
        """The least length of the log, in bytes."""
        return 32 + self.frames * (24 + self.page_size)


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from any other."""
    return found.st_dev, found.st_ino
