"""Numbers that the processes of a round share: may they begin, and how much has each handled."""

from __future__ import annotations

import asyncio
import mmap
import time
from pathlib import Path

SLOTS = 16
LOOK = 0.001  # seconds between looks at whether it begins


class Board:
    """A file that all of the processes map: one number for the beginning, one for each worker."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    @classmethod
    def make(cls, path: Path) -> Board:
        """Return a new board in this file, all numbers zero."""
        path.write_bytes(bytes(8 * SLOTS))
        return cls(path)

    def begin(self) -> None:
        """Start the workers."""
        self._numbers[0] = 1

    async def begun(self) -> None:
        """Wait until the workers may begin."""
        while not self._numbers[0]:  # noqa: ASYNC110 - another process has no such event
            await asyncio.sleep(LOOK)

    def handled(self) -> int:
        """Return how much all workers have handled."""
        return sum(self._numbers[1:])


class Tally(Board):
    """The part of the board that one worker writes."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(path)
        self._slot = number + 1
        self.last = 0.0

    def count(self) -> None:
        """Count one that was handled."""
        self._numbers[self._slot] += 1
        self.last = time.monotonic()

    def finished(self) -> None:
        """Note that what was handled is out of the inbox now."""
        self.last = time.monotonic()

    def mine(self) -> int:
        """Return how much this worker has handled."""
        return self._numbers[self._slot]
