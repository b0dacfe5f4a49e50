"""The arguments of ``AsanaSimulator``, and what is said of those that make no sense."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from itertools import chain
from types import NoneType

__all__ = [
    "LONGEST",
    "NUMBER",
    "check_address",
    "check_limits",
    "check_seconds",
    "check_share",
    "check_type",
    "check_types",
    "checked_names",
]

LONGEST = 1_000_000_000  # seconds, some 31 years: much more would end the dates that Python knows

NUMBER = (int, float), "a number"
_LIMIT = (int, NoneType), "a whole number, or None for no limit"
_FLAG = (bool,), "True or False"
_HOSTS = (Collection,), "a collection of host names"
_TEXTS = (Mapping, NoneType), "a mapping of texts to texts, or None"
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "host": ((str,), "a host name"),
    "port": ((int,), "a port"),
    "host_names": _HOSTS,
    "allow_local": _FLAG,
    "allow_hosts": _HOSTS,
    "gather_for": NUMBER,
    "retry_delay": NUMBER,
    "delivery_timeout": NUMBER,
    "give_up_after": NUMBER,
    "retry_after": ((int,), "a whole number"),
    "rate_limit": _LIMIT,
    "concurrent_gets": _LIMIT,
    "concurrent_writes": _LIMIT,
    "drop_share": NUMBER,
    "sync_lasts": NUMBER,
    "stream_lag": NUMBER,
    "changes": _TEXTS,
    "oauth_clients": _TEXTS,
    "consents": _FLAG,
    "rotates": _FLAG,
    "frozen_at": ((datetime, NoneType), "a time, or None"),
    "strict": _FLAG,
    "system_stories": _FLAG,
    "ssl_context": ((ssl.SSLContext, NoneType), "an ssl.SSLContext, or None"),
    "watch": ((Callable, NoneType), "a function, or None"),  # type: ignore[dict-item] # for isinstance
}
"""The types of the constructor's arguments, and the words for them."""


def check_types(arguments: Mapping[str, object]) -> None:
    """Raise TypeError for an argument of another type, or one that holds what is no text."""
    for name, rule in _TYPES.items():
        value = arguments[name]
        check_type(name, value, rule)
        items: Iterable[object] = value if isinstance(value, Collection) else ()
        if isinstance(value, Mapping):
            items = chain.from_iterable(value.items())
        if not all(isinstance(item, str) for item in items):
            msg = f"{name} must be {rule[1]}"
            raise TypeError(msg)


def check_type(name: str, value: object, rule: tuple[tuple[type, ...], str]) -> None:
    """Raise TypeError for a value of another type; True is no number."""
    types, words = rule
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        msg = f"{name} must be {words}, not {type(value).__name__}"
        raise TypeError(msg)


def check_address(host: str, port: int) -> None:
    """Raise ValueError for no host, and for what is no port."""
    if not host:
        msg = "host must name the interface to listen on, such as 127.0.0.1"
        raise ValueError(msg)
    if not 0 <= port <= 65_535:
        msg = f"port must be between 0 (any free one) and 65535, not {port}"
        raise ValueError(msg)


def check_seconds(*, zero: bool = False, **durations: float) -> None:
    """Raise ValueError for a duration that is not positive, or too long; ``zero`` allows none."""
    for name, seconds in durations.items():
        if not (0 < seconds <= LONGEST or (zero and seconds == 0)):
            kind = "a number" if zero else "a positive number"
            msg = f"{name} must be {kind} of seconds up to {LONGEST}, not {seconds}"
            raise ValueError(msg)


def check_share(share: float) -> None:
    """Raise ValueError for a share that is not between 0 and 1."""
    if not 0 < share <= 1:
        msg = f"drop_share must be more than 0 and at most 1, not {share}"
        raise ValueError(msg)


def check_limits(**limits: int | None) -> None:
    """Raise ValueError for a limit below one call."""
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            msg = f"{name} must be a number of calls from 1 on, or None for no limit, not {limit}"
            raise ValueError(msg)


def checked_names(names: Collection[str]) -> Collection[str]:
    """Return the names; raise ValueError for one text, which is a collection too."""
    if isinstance(names, str):
        msg = f"host_names is a collection of host names; write ({names!r},)"
        raise ValueError(msg)
    return names
