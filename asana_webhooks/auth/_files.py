"""A token in a file that several processes may share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import msgspec

from .._options import PATH, check_options
from ..errors import StoreError
from ._tokens import Token

__all__ = ["TokenFile"]

LOCK_SECONDS = 60.0  # a renewal holds the lock for as long as one call to Asana, at most 30 s
_LOOK_AGAIN = 0.02


class TokenFile:
    """A token in a JSON file of mode 0600, in clear text: keep it like a password.

    The file is replaced as a whole, so a reader finds the old token or the new one. Processes of
    one machine that share it take turns to renew, by a lock beside it (``.lock``) that ends with
    its process. Calls raise StoreError when the file cannot be read, written or locked.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_options({"path": PATH}, {"path": path})
        self._path = Path(path)

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def load(self) -> Token | None:
        """Return the token, None without a file."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Token)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", error) from error
        except (ValueError, RecursionError):
            msg = f"{self._path} holds no token: delete it and log in again"
            raise StoreError(msg) from None

    async def save(self, token: Token) -> None:
        """Replace the token; it is on disk when this returns.

        A save that is cancelled is ended first, while the caller still has the lock.
        """
        try:
            await _in_thread(_replace, self._path, msgspec.json.encode(token))
        except OSError as error:
            raise self._failed("written", error) from error

    def forget(self) -> None:
        """Delete the file, if there is one."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed("deleted", error) from error

    @contextlib.asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Keep other processes, and other objects for this file, from renewing meanwhile."""
        connection = await _locked(f"{self._path}.lock")
        try:
            yield
        finally:
            connection.close()

    def _failed(self, verb: str, error: OSError) -> StoreError:
        return StoreError(
            f"the token file {self._path} cannot be {verb}: {error.strerror}; check its directory"
            " and its permissions"
        )


async def _locked(path: str) -> sqlite3.Connection:
    """Return what holds the lock until it is closed."""
    # SQLite's is the one lock in the standard library that all systems know and that ends with
    # its process. Nothing is ever written there.
    try:
        _make_private(path)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await _begin(connection)
        except BaseException:
            connection.close()
            raise
    except TimeoutError:
        msg = f"{path} was locked for {LOCK_SECONDS:g} s: end the process that hangs"
        raise StoreError(msg) from None
    except (sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"{path} cannot be locked: {why}; check its directory and its permissions"
        raise StoreError(msg) from error
    return connection


def _make_private(path: str) -> None:
    """Make the file, or change its mode, so that no other user can hold the lock: 0600."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if os.stat(path).st_mode & 0o077:  # as earlier versions made it
        os.chmod(path, 0o600)


async def _begin(connection: sqlite3.Connection) -> None:
    while True:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            return
        await asyncio.sleep(_LOOK_AGAIN)


async def _in_thread(work: Callable[[Path, bytes], None], path: Path, content: bytes) -> None:
    """Do what waits for the disk, which may take seconds, beside the event loop."""
    task = asyncio.create_task(asyncio.to_thread(work, path, content))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen here; the cancellation goes on
        raise


def _replace(path: Path, content: bytes) -> None:
    # mkstemp makes files of mode 0600.
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(number)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    with contextlib.suppress(OSError):  # Windows opens no directories
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
