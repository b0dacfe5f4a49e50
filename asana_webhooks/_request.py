"""Any call of Asana's API, checked before it is made: its method, path, parameters and data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

__all__ = ["Params", "Request", "check_request"]

Params: TypeAlias = Mapping[str, object]
"""Parameters of a query by name: texts, numbers, True or False, lists of them, or None."""

METHODS = ("GET", "POST", "PUT", "DELETE")
WITH_DATA = ("POST", "PUT")

_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
_OUTSIDE = re.compile(r"[/\\\x00-\x20\x7f]")


class Request(NamedTuple):
    """A call that can be made; ``content`` is None without a body."""

    method: str
    path: str
    query: dict[str, str]
    content: dict[str, Any] | None


def check_request(
    method: str, path: str, *, params: Params | None, data: Mapping[str, Any] | None
) -> Request:
    """Return the call. Raises ValueError or TypeError for one that cannot be meant."""
    if not isinstance(method, str) or method.upper() not in METHODS:
        msg = f"method must be one of {', '.join(METHODS)}"
        raise ValueError(msg)
    method = method.upper()
    _check_path(path)
    if data is not None and method not in WITH_DATA:
        msg = f"{method} takes no data; what it needs goes into params"
        raise ValueError(msg)
    _check_mapping("data", data, "fields, without 'data' above")
    if data is not None and data.keys() == {"data"}:
        msg = (
            "data are the fields themselves, such as {'name': …}: 'data' is put around them for you"
        )
        raise ValueError(msg)
    content = None if data is None else dict(data)
    return Request(method, path, query_of(params), content)


def _check_path(path: object) -> None:
    """Raise ValueError for a path that is none, or may lead out of the API."""
    if not isinstance(path, str):
        msg = f"path must be a text, not {type(path).__name__}"
        raise TypeError(msg)
    if _PATH.fullmatch(path) and all(_is_inside(segment) for segment in path[1:].split("/")):
        return
    msg = (
        "path must be one below base_url, such as '/tasks/1204619': no address, no '..', no slash"
        " at its end, other characters percent-encoded, and what follows a '?' in params"
    )
    raise ValueError(msg)


def _is_inside(segment: str) -> bool:
    decoded = unquote(segment)
    return decoded not in (".", "..") and _OUTSIDE.search(decoded) is None


def query_of(params: Params | None) -> dict[str, str]:
    """Return parameters as texts: lists joined by commas, without those that are None.

    Raises TypeError for another value.
    """
    _check_mapping("params", params, "names to values")
    items = (params or {}).items()
    return {str(name): _text(name, value) for name, value in items if value is not None}


def _check_mapping(name: str, value: object, of: str) -> None:
    if not isinstance(value, Mapping | None):
        msg = f"{name} must be a mapping of {of}, not {type(value).__name__}"
        raise TypeError(msg)


def _text(name: object, value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(_text(name, each) for each in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    msg = f"{name!r} of params must be a text, a number, True or False, or a list of them"
    raise TypeError(msg)
