"""Options that are numbers: refused by name when they cannot work."""

from __future__ import annotations

import math

__all__ = ["check_count", "check_seconds"]


def check_count(name: str, value: object) -> None:
    """Raise TypeError for what is no int, ValueError for one below 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} is a whole number, not {type(value).__name__}"
        raise TypeError(msg)
    if value < 1:
        msg = f"{name} must be at least 1, not {value}"
        raise ValueError(msg)


def check_seconds(name: str, value: object) -> None:
    """Raise TypeError for what is no number, ValueError for one that is no time to wait."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} is a number of seconds, not {type(value).__name__}"
        raise TypeError(msg)
    if not 0 < value < math.inf:
        msg = f"{name} must be a positive number of seconds, not {value}"
        raise ValueError(msg)
