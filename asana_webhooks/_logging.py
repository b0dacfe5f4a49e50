"""Log lines that a flood of strangers cannot multiply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["QUIET_FOR", "ThrottledLogger"]

QUIET_FOR = 10.0
"""At most one line of a kind in so many seconds."""


class ThrottledLogger:
    """Writes the first line of each kind, then counts the kind until the quiet time is over.

    Kinds are constants of ours, never text of a stranger, so their number is small.
    """

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._last: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def log(
        self, level: int, kind: str, message: str, *args: object, exc_info: bool = False
    ) -> None:
        """Log the message unless one of its kind was logged a short time ago."""
        now = self._clock()
        if now - self._last.get(kind, -QUIET_FOR) < QUIET_FOR:
            self._skipped[kind] = self._skipped.get(kind, 0) + 1
            return
        self._last[kind] = now
        skipped = self._skipped.pop(kind, 0)
        if skipped:
            message = f"{message} (and {skipped} more of this kind before)"
        self._logger.log(level, message, *args, exc_info=exc_info)
