"""Log lines that strangers can neither multiply nor break."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["QUIET_FOR", "ThrottledLogger", "one_line"]

QUIET_FOR = 10.0
"""At most one line of a kind in so many seconds."""

MAX_KINDS = 1_000
"""Kinds that are remembered; the one that was written longest ago is forgotten."""


def one_line(shown: object, *, longest: int = 200) -> str:
    """Return a text, or what another object shows of itself, as one line of visible characters.

    So it is safe for logs and terminals, whoever wrote it. It is cut behind ``longest`` characters.
    """
    try:
        text = shown if isinstance(shown, str) else repr(shown)
    except BaseException:  # noqa: BLE001 - of a user's class, whose repr may have mistakes
        text = type(shown).__name__
    return "".join(char if char.isprintable() else " " for char in text[:longest])


class ThrottledLogger:
    """Writes the first line of each kind, then counts the kind until the quiet time is over.

    Kinds are ours, never a stranger's text.
    """

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._last: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def log(
        self,
        level: int,
        kind: str,
        message: str,
        *args: object,
        exc_info: bool | BaseException = False,
    ) -> None:
        """Log the message unless one of its kind was logged a short time ago."""
        now = self._clock()
        if now - self._last.get(kind, -QUIET_FOR) < QUIET_FOR:
            self._skipped[kind] = self._skipped.get(kind, 0) + 1
            return
        self._last.pop(kind, None)  # the newest is the last of all
        self._last[kind] = now
        if len(self._last) > MAX_KINDS:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._skipped.pop(oldest, None)
        skipped = self._skipped.pop(kind, 0)
        if skipped:
            message = f"{message} (and {skipped} more of this kind before)"
        self._logger.log(level, message, *args, exc_info=exc_info)
