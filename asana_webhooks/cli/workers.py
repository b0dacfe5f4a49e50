"""Several processes of one command: started, started again when they die, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from .._background import background_task
from .._signals import Stopping, stopping

__all__ = ["end_of_input", "reserved_port", "supervise", "tell_start"]

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
        try:
            reserving.bind((host, port))
        except OSError as error:
            msg = f"cannot listen on port {port} of {host}: {error.strerror}"
            raise OSError(error.errno, msg) from error
        yield reserving.getsockname()[1]


# A worker's standard input is a socket: it ends with the supervisor, and takes the word back that
# the worker has started.


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


async def tell_start(started: asyncio.Event) -> None:
    """Tell the supervisor, once the event is set, that this worker has started."""
    await started.wait()
    with contextlib.suppress(OSError):  # it is gone
        os.write(sys.stdin.fileno(), b"1")


async def supervise(arguments: Sequence[str], environment: Mapping[str, str], count: int) -> None:
    """Run ``count`` processes of a command of this program until told to stop by a signal.

    Told twice, it kills them. Raises ClickException when they do not start.
    """
    with stopping() as told:
        workers = _Workers(arguments, environment, told)
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(workers.keep_one())
    if workers.start_failed_with is not None:
        msg = (
            f"a worker did not start: it ended with status {workers.start_failed_with};"
            " its log says why"
        )
        raise click.ClickException(msg)


class _Workers:
    """The processes; ``start_failed_with`` is the status of one that died at its start."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], told: Stopping
    ) -> None:
        self._command = [sys.executable, "-m", "asana_webhooks", *arguments]
        self._environment = environment
        self._told = told
        self.start_failed_with: int | None = None

    async def keep_one(self) -> None:
        """Run one worker, and another in its place when it dies, until told to stop.

        When the first one does not start, no other would: then all end.
        """
        has_started = False
        while not self._told.once.is_set():
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    worker = await self._start(theirs)
                status = await self._run(worker)
                has_started = has_started or _said_something(ours)
            if self._told.once.is_set():
                return
            if not has_started:
                self.start_failed_with = status
                self._told.tell()
                return
            logger.warning("a worker died with status %s; another is started", status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.once.wait(), PAUSE)

    async def _start(self, stdin: socket.socket) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C is for the supervisor alone, which passes it on once.
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=stdin.fileno(), env=self._environment, start_new_session=True
        )

    async def _run(self, worker: asyncio.subprocess.Process) -> int:
        """Return the status with which a worker ended, by itself or because it was told to."""
        async with background_task(worker.wait(), "worker") as ended:
            await _first(ended, self._told.once)
            with contextlib.suppress(ProcessLookupError):  # it has ended at this moment
                if not ended.done():
                    worker.terminate()
                    await _first(ended, self._told.twice, within=STOP_TIMEOUT)
                if not ended.done():
                    worker.kill()
            return await ended


def _said_something(ours: socket.socket) -> bool:
    ours.settimeout(0)
    try:
        return bool(ours.recv(1))
    except BlockingIOError:  # a child of the worker's has the other end still
        return False


async def _first(
    ended: asyncio.Task[int], told: asyncio.Event, *, within: float | None = None
) -> None:
    """Return when one of these has happened, or after so many seconds."""
    async with background_task(told.wait(), "signal") as waiting:
        await asyncio.wait([ended, waiting], timeout=within, return_when=asyncio.FIRST_COMPLETED)
