"""Signals that end a program: the first asks it to stop, the second is impatient.

SIGTERM, Ctrl-C, and SIGHUP, which comes when a terminal is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["Stopping", "stopping", "terminable", "until_told"]

HANGUP = getattr(signal, "SIGHUP", None)
"""None on Windows, which does not have it."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP else []))

logger = logging.getLogger(__name__)


class Stopping:
    """``once`` is set by the first signal, ``twice`` by the second, unless that ``kills``."""

    def __init__(self, once: asyncio.Event | None = None, *, kills: bool = False) -> None:
        self.once = once or asyncio.Event()
        self.twice = asyncio.Event()
        self.kills = kills

    def tell(self) -> None:
        """Note one more signal."""
        (self.twice if self.once.is_set() else self.once).set()


_watching: list[Stopping] = []
_before: dict[signal.Signals, Any] = {}


@contextlib.contextmanager
def stopping(once: asyncio.Event | None = None, *, kills: bool = False) -> Iterator[Stopping]:
    """Catch the signals, instead of dying of them, and count them.

    ``once`` is an event of one's own to set. Several may watch at once: all are told, and the last
    that ends leaves all as it was found. When the second signal ``kills``, it ends the process at
    once, even one whose event loop hangs.
    """
    state = Stopping(once, kills=kills)
    if not _watching:
        _catch()
    _watching.append(state)
    try:
        yield state
    finally:
        _watching.remove(state)
        if not _watching:
            _handle_by(_before)


def _catch() -> None:
    _before.clear()
    _before.update({number: signal.getsignal(number) for number in SIGNALS})
    if HANGUP is not None and _before[HANGUP] is signal.SIG_IGN:  # nohup: the terminal may go
        del _before[HANGUP]
    for number in _before:
        asyncio.get_running_loop().add_signal_handler(number, _tell)


def _tell() -> None:
    for state in _watching:
        state.tell()
    if all(state.kills for state in _watching):
        _handle_by(dict.fromkeys(_before, signal.SIG_DFL))
        logger.info("stopping; told once more, it stops at once")


def _handle_by(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, handler)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM do what Ctrl-C does, for work that cleans up when it is interrupted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # asyncio's, while it runs
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def until_told(told: Stopping, *awaitables: Awaitable[object]) -> None:
    """Return when told to stop or when one of these has ended; they are cancelled, and waited for.

    Told twice, they are cancelled again, so that their cleaning up ends too. Raises what one of
    them raised, also one that was cancelled and failed to clean up.
    """
    tasks = [asyncio.ensure_future(each) for each in (told.once.wait(), *awaitables)]
    impatience = asyncio.create_task(_cancel_at(told.twice, tasks))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        _cancel(tasks)
        await asyncio.wait(tasks)
        impatience.cancel()
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _cancel_at(event: asyncio.Event, tasks: Iterable[asyncio.Future[object]]) -> None:
    await event.wait()
    _cancel(tasks)


def _cancel(tasks: Iterable[asyncio.Future[object]]) -> None:
    for task in tasks:
        task.cancel()
