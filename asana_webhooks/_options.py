"""Rules for options: tables by which a wrong value is refused before any work."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "ANY",
    "COUNT",
    "DELAY",
    "FLAG",
    "NAMES",
    "PATH",
    "SECONDS",
    "SOCKET_PATH",
    "TEXT",
    "Rule",
    "check_options",
    "is_async",
    "optional",
]


MAX_COUNT = 2**31 - 1
"""Beyond it databases and C libraries refuse a number, each in its own words."""

MAX_SECONDS = 10**9
"""Some 31 years: with much more, sums of times leave what Python and databases can hold."""

MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""In bytes, behind which the system wants a NUL."""


class Rule(NamedTuple):
    """The values that an option takes, and the words for them."""

    types: tuple[type, ...]
    says: str
    fits: Callable[[Any], bool] = lambda value: True


def _is_text(value: str) -> bool:
    """Return whether servers, files and headers can hold the text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _are_texts(value: Iterable[object]) -> bool:
    return all(isinstance(item, str) and _is_text(item) for item in value)


def _is_socket_path(value: str | os.PathLike[str]) -> bool:
    try:
        path = os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return b"\0" not in path and len(path) <= MAX_SOCKET_PATH


ANY = Rule((object,), "anything")
"""For what another check refuses by name."""

COUNT = Rule((int,), "a whole number, 1 or more", lambda value: 1 <= value <= MAX_COUNT)
DELAY = Rule(
    (int, float),
    f"a number of seconds, at least 0 and at most {MAX_SECONDS}",
    lambda value: 0 <= value <= MAX_SECONDS,
)
FLAG = Rule((bool,), "True or False")
NAMES = Rule((list, tuple, set, frozenset), "a list of texts, also when there is one", _are_texts)
PATH = Rule((str, os.PathLike), "a path")
SECONDS = Rule(
    (int, float),
    f"a number of seconds, more than 0 and at most {MAX_SECONDS}",
    lambda value: 0 < value <= MAX_SECONDS,
)
SOCKET_PATH = Rule(
    (str, os.PathLike),
    f"a path of at most {MAX_SOCKET_PATH} bytes, without NUL",
    _is_socket_path,
)
TEXT = Rule((str,), "a text, without NUL and lone surrogates", _is_text)


def is_async(call: object) -> bool:
    """Return whether it is a coroutine function, or an object that is called as one."""
    method = getattr(call, "__call__", None)  # noqa: B004 - of an object that is called
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(method)


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
            shown = f", not {value}" if _is_short_number(value) else ""
            msg = f"{name} must be {rule.says}{shown}"
            raise ValueError(msg)


def _is_short_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)
