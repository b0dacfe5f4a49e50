"""Being told to stop, by SIGTERM or Ctrl-C: once to clean up, twice to leave things as they are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Iterator

__all__ = ["Stopping", "first_of", "stopping"]

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


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Return when one of these has ended; the others are cancelled, and waited for.

    Raises what one of them raised, also one that was cancelled and failed to clean up.
    """
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
