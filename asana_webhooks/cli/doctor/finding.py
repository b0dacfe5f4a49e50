"""The result of a check, and the next step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["Finding", "captured", "failed", "ok", "warning"]


class Finding(NamedTuple):
    """The result of one check; ``next`` is the next step, None when all is well."""

    check: str
    result: Literal["ok", "warning", "failed"]
    found: str
    next: str | None = None


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, next: str) -> Finding:  # noqa: A002 - the field's name
    """Return that it may go wrong."""
    return Finding(check, "warning", found, next)


def failed(check: str, found: str, next: str) -> Finding:  # noqa: A002 - the field's name
    """Return that it cannot go well."""
    return Finding(check, "failed", found, next)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def captured(name: str) -> Iterator[list[str]]:
    """Keep what is logged below a name meanwhile, hints of the level INFO included."""
    logger, kept = logging.getLogger(name), _Kept()
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield kept.messages
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
