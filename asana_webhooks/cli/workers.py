"""Several processes of one command: started, started again when they die, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import click

__all__ = ["end_of_input", "reserved_port", "supervise"]

STARTED_AFTER = 5.0
"""Seconds that a first worker must live; one that dies before would die again."""

PAUSE = 1.0
"""Seconds before a worker that died is started again."""

STOP_TIMEOUT = 12.0
"""Seconds that workers have to stop; they take ten at most."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Keep a port from others, a free one for 0, while processes that share ports listen on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as reserving:
        # As asyncio does it: connections of an earlier receiver may linger for a minute.
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserving.bind((host, port))
        yield reserving.getsockname()[1]


def end_of_input() -> asyncio.Event:
    """Return an event that is set when standard input ends: when the supervisor is gone."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), read)
    return ended


async def supervise(command: Sequence[str], count: int) -> None:
    """Run ``count`` processes of a command of this program until told to stop by a signal.

    Told twice, it kills them. Raises ClickException when they do not start.
    """
    workers = _Workers(command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, workers.stop)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(workers.keep_one())
    except* click.ClickException as errors:
        raise errors.exceptions[0] from None


class _Workers:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "asana_webhooks", *command]
        self._running: set[asyncio.subprocess.Process] = set()
        self._started_at = time.monotonic()
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Tell the workers to stop; the second time, kill them."""
        number = signal.SIGKILL if self._told.is_set() else signal.SIGTERM
        self._told.set()
        for worker in self._running:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(number)

    async def keep_one(self) -> None:
        """Run one worker, and another in its place when it dies, until told to stop."""
        while not self._told.is_set():
            status = await self._run_one()
            if self._told.is_set():
                return
            if time.monotonic() - self._started_at < STARTED_AFTER:
                self.stop()
                msg = f"a worker did not start: it ended with status {status}; its log says why"
                raise click.ClickException(msg)
            logger.warning("a worker died with status %s; another is started", status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), PAUSE)

    async def _run_one(self) -> int:
        # A session of its own: Ctrl-C is for the supervisor alone, which passes it on once.
        worker = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        self._running.add(worker)
        if self._told.is_set():  # while it was being started
            worker.terminate()
        ended = asyncio.create_task(worker.wait())
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(ended), STOP_TIMEOUT)
            worker.kill()
            return await ended
        finally:
            told.cancel()
            self._running.discard(worker)
