"""Rules for options: tables by which a wrong value is refused before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "ANY",
    "COUNT",
    "FLAG",
    "NAMES",
    "PATH",
    "SECONDS",
    "TEXT",
    "Rule",
    "check_options",
    "optional",
]


MAX_COUNT = 2**31 - 1
"""Beyond it databases and C libraries refuse a number, each in its own words."""


class Rule(NamedTuple):
    """The values that an option takes, and the words for them."""

    types: tuple[type, ...]
    says: str
    fits: Callable[[Any], bool] = lambda value: True


def _is_finite_and_positive(value: float) -> bool:
    return 0 < value < math.inf


def _are_texts(value: Sequence[object]) -> bool:
    return all(isinstance(item, str) for item in value)


ANY = Rule((object,), "anything")
"""For what another check refuses by name."""

COUNT = Rule((int,), "a whole number, 1 or more", lambda value: 1 <= value <= MAX_COUNT)
FLAG = Rule((bool,), "True or False")
NAMES = Rule((list, tuple, set, frozenset), "a list of texts, also when there is one", _are_texts)
PATH = Rule((str, os.PathLike), "a path")
SECONDS = Rule((int, float), "a number of seconds, more than 0 and finite", _is_finite_and_positive)
TEXT = Rule((str,), "a text")


def optional(rule: Rule, none: str = "None") -> Rule:
    """Return a rule that takes None too; ``none`` says what that stands for."""
    return Rule(
        (*rule.types, type(None)),
        f"{rule.says}, or {none}",
        lambda value: value is None or rule.fits(value),
    )


def check_options(rules: Mapping[str, Rule], options: Mapping[str, object]) -> None:
    """Check each option that has a rule; a value is never quoted unless it is a number.

    Raises TypeError for a value of another type, ValueError for another value of the right one.
    True is no number.
    """
    for name, rule in rules.items():
        value = options[name]
        if not isinstance(value, rule.types) or (
            isinstance(value, bool) and not {bool, object} & set(rule.types)
        ):
            msg = f"{name} must be {rule.says}, not {type(value).__name__}"
            raise TypeError(msg)
        if not rule.fits(value):
            shown = f", not {value}" if isinstance(value, int | float) else ""
            msg = f"{name} must be {rule.says}{shown}"
            raise ValueError(msg)
