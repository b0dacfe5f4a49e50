"""The inputs of calls: bodies, options, the names of fields to show, and the pages of lists.

Sources: https://developers.asana.com/docs/inputoutput-options,
https://developers.asana.com/docs/pagination
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web
from multidict import MultiMapping
from yarl import URL

from .responses import Refused, answer

__all__ = ["OPTIONS", "Inputs", "Pages", "inputs", "names_of_fields"]

OPTIONS = frozenset(
    {"opt_fields", "opt_pretty", "opt_expand", "opt_jsonp", "opt_silent", "options"}
)
"""Parameters of every call, which are no inputs of the operation."""


class Inputs(NamedTuple):
    """The inputs of a call: ``given`` are its fields, ``names`` those that it wants to be shown.

    ``given`` is what is in the body and, beneath that, in the query.
    """

    given: Mapping[str, Any]
    names: Sequence[str] = ()


async def inputs(request: web.Request) -> Inputs:
    """Return what a call gives.

    Raises Refused when the body is not what it says it is, or is JSON and holds no ``data``.
    """
    queried = {name: value for name, value in request.query.items() if name not in OPTIONS}
    options = _options(request.query.get("options"))
    data: Mapping[str, Any] = {}
    if request.method in ("POST", "PUT") and request.body_exists:
        data, more = await _body(request)
        options = {**options, **more}
    texts = [*request.query.getall("opt_fields", ()), *_names(options.get("fields"))]
    return Inputs({**queried, **data}, names_of_fields(",".join(texts)))


async def _body(request: web.Request) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if request.content_type != "application/json":
        return await _form(request), {}
    try:
        body = msgspec.json.decode(await request.read())
    except (ValueError, RecursionError):
        raise Refused(400, "Could not parse request data, invalid JSON") from None
    if isinstance(body, dict):
        _check_top(body)
    fields = body.get("data") if isinstance(body, dict) else None
    if not isinstance(fields, dict):
        raise Refused(400, "data: Missing input")
    options = body.get("options")
    return fields, options if isinstance(options, dict) else {}


def _check_top(body: Mapping[str, Any]) -> None:
    unknown = next((name for name in body if name not in ("data", "options")), None)
    if unknown is not None:
        raise Refused(
            400,
            f"Unrecognized request field {unknown}. The only allowed keys at the top level are:"
            " data, options.",
        )


async def _form(request: web.Request) -> Mapping[str, Any]:
    try:
        return dict(await request.post())
    except (ValueError, LookupError):  # what aiohttp lets out: bytes, a charset, a missing boundary
        raise Refused(400, "Could not parse request data, invalid form") from None


def _options(text: str | None) -> Mapping[str, Any]:
    try:
        options = msgspec.json.decode(text or "{}")
    except (ValueError, RecursionError):
        raise Refused(400, "options: Could not parse request data, invalid JSON") from None
    return options if isinstance(options, dict) else {}


def _names(value: Any) -> Iterable[str]:
    names = value if isinstance(value, list) else [value]
    return [name for name in names if isinstance(name, str)]


ALTERNATIVES = re.compile(r"([^,(]*)\(([^()]*)\)([^,]*)")


@lru_cache(maxsize=1_000)
def names_of_fields(text: str) -> Sequence[str]:
    """Return the names in ``opt_fields``: ``this.x`` is ``x``, ``(a|b).c`` is ``a.c,b.c``."""
    while found := ALTERNATIVES.search(text):
        before, inside, after = found.groups()
        named = ",".join(f"{before}{each}{after}" for each in inside.split("|"))
        text = text[: found.start()] + named + text[found.end() :]
    names = (name.strip().removeprefix("this.") for name in text.split(","))
    return [name for name in names if name]


LASTS = timedelta(minutes=15)
"""How long an offset is good for, as was seen; Asana says "some time"."""

WHOLE = 1_000
"""How many records Asana shows without a limit, at most."""


class Listed(Protocol):
    """An item of a list."""

    gid: str


ListedT = TypeVar("ListedT", bound=Listed)


class _Offset(NamedTuple):
    path: str
    after: str
    ends_at: datetime


class Pages:
    """Answers with parts of lists; ``now`` tells when an offset ends."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._offsets: dict[str, _Offset] = {}

    def answer(
        self,
        url: URL,
        items: Sequence[ListedT],
        show: Callable[[ListedT], Mapping[str, Any]],
    ) -> web.Response:
        """Return the answer with the part of the items that a call with this URL asks for.

        ``next_page`` is there only when ``limit`` was given, and null on the last page. An offset
        ends after a while, or when the item before it is gone from the list.
        """
        limit = _limit(url.query)
        start = self._start(url, items)
        if limit is None:
            if len(items) - start > WHOLE:
                message = "The result is too large. You should use pagination"
                raise Refused(400, f"{message} (may require specifying a workspace)!")
            return answer({"data": [show(each) for each in items[start:]]})
        chosen = items[start : start + limit]
        more = start + limit < len(items)
        next_page = self._next(url, chosen[-1]) if more else None
        return answer({"data": [show(each) for each in chosen], "next_page": next_page})

    def _start(self, url: URL, items: Sequence[Listed]) -> int:
        token = url.query.get("offset")
        if token is None:
            return 0
        offset = self._offsets.get(token)
        if offset is not None and offset.ends_at <= self._now():
            raise Refused(400, "offset: Your pagination token has expired.")
        if offset is not None and offset.path == url.path:
            for place, item in enumerate(items, start=1):
                if item.gid == offset.after:
                    return place
        raise Refused(400, "offset: Your pagination token is invalid or has expired")

    def _next(self, url: URL, last: Listed) -> dict[str, str]:
        now = self._now()
        self._offsets = {
            key: old for key, old in self._offsets.items() if old.ends_at > now - LASTS
        }
        offset = secrets.token_urlsafe(24)
        self._offsets[offset] = _Offset(url.path, last.gid, now + LASTS)
        uri = url.update_query(offset=offset)
        path = str(uri.relative()).removeprefix("/api/1.0")
        return {"offset": offset, "path": path, "uri": str(uri)}


def _limit(query: MultiMapping[str]) -> int | None:
    text = query.get("limit")
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= number <= 100:
        raise Refused(400, "limit: Must be a number between 1 and 100")
    return number
