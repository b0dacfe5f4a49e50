"""Being told to stop: once to clean up, twice to leave things as they are.

Who is told by Ctrl-C, by SIGTERM, or by SIGHUP, when a terminal is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Iterable, Iterator
from types import FrameType

__all__ = ["Stopping", "stopping", "terminable", "until_told"]

HANGUP = getattr(signal, "SIGHUP", None)
"""What Windows does not have."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP else []))


class Stopping:
    """``once`` is set by the first signal, ``twice`` by the second."""

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    def tell(self) -> None:
        """Note one more signal."""
        (self.twice if self.once.is_set() else self.once).set()


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """Catch the signals, instead of dying of them, and count them."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before.get(HANGUP) is signal.SIG_IGN:  # nohup: the terminal may go
        del before[HANGUP]
    state = Stopping()
    for number in before:
        loop.add_signal_handler(number, state.tell)
    try:
        yield state
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, for work that cleans up when it is interrupted."""

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
