"""``asana-webhooks serve`` as a process of its own, with a store and a log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_serving import HERE, confirm_route

from asana_webhooks.stores.sqlite import SqliteStore

Serve = Callable[..., "subprocess.Popen[bytes]"]


class Place:
    """A store's file, a file for what was handled, a log, and a port."""

    def __init__(self, directory: Path, port: int) -> None:
        self.file, self.handled, self.log = (
            directory / name for name in ("s.db", "handled", "log")
        )
        self.port = port
        self.environment = {
            "STORE": f"sqlite:///{self.file}",
            "ASANA_WEBHOOKS_STORE": f"sqlite:///{self.file}",
            "HANDLED": str(self.handled),
            "PORT": str(port),
        }

    async def target(self) -> str:
        async with SqliteStore(self.file) as store:
            return await confirm_route(store, self.port)

    async def waiting(self) -> int:
        async with SqliteStore(self.file) as store:
            return (await store.counts()).waiting

    def gids(self) -> list[str]:
        lines = self.handled.read_text().splitlines() if self.handled.exists() else []
        return [line.split()[1] for line in lines if not line.startswith("began")]

    def has_begun(self) -> bool:
        return self.handled.exists() and "began" in self.handled.read_text()


@pytest.fixture
def place(tmp_path: Path, free_port: int) -> Place:
    return Place(tmp_path, free_port)


@pytest.fixture
def serve(place: Place) -> Iterator[Serve]:
    """Return what starts the command; whatever still runs is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, debug: bool = False, **variables: str) -> subprocess.Popen[bytes]:
        options = ["--debug"] if debug else []
        with place.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "asana_webhooks", *options, "serve", *arguments],
                cwd=HERE,
                env={**os.environ, **place.environment, **variables},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
