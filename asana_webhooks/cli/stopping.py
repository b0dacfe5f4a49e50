"""Being told to stop, by SIGTERM or Ctrl-C: once to clean up, twice to leave things as they are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Iterable, Iterator

__all__ = ["Stopping", "stopping", "until_told"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
    state = Stopping()
    for number in SIGNALS:
        loop.add_signal_handler(number, state.tell)
    try:
        yield state
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


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
