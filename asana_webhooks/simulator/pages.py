"""How long lists are handed out: whole, or in pages with offsets that end.

Source: https://developers.asana.com/docs/pagination
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

from aiohttp import web

from .answers import Refused, answer

__all__ = ["Pages"]

LASTS = timedelta(hours=1)
"""How long an offset is good for; Asana says "some time"."""

WHOLE = 1_000
"""How many records Asana shows without a limit, at most."""


class Listed(Protocol):
    """What a list consists of."""

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
        request: web.Request,
        items: Sequence[ListedT],
        show: Callable[[ListedT], Mapping[str, Any]],
    ) -> web.Response:
        """Return the answer with the part of the items that the call asks for.

        ``next_page`` is there only when ``limit`` was given, and null on the last page. An offset
        ends after a while, or when the item before it is gone from the list.
        """
        limit = _limit(request.query.get("limit"))
        start = self._start(request, items)
        if limit is None:
            if len(items) - start > WHOLE:
                message = "The result is too large. You should use pagination"
                raise Refused(400, f"{message} (may require specifying a workspace)!")
            return answer({"data": [show(each) for each in items[start:]]})
        chosen = items[start : start + limit]
        more = start + limit < len(items)
        next_page = self._next(request, chosen[-1]) if more else None
        return answer({"data": [show(each) for each in chosen], "next_page": next_page})

    def _start(self, request: web.Request, items: Sequence[Listed]) -> int:
        token = request.query.get("offset")
        if token is None:
            return 0
        offset = self._offsets.get(token)
        if offset is not None and offset.ends_at <= self._now():
            raise Refused(400, "offset: Your pagination token has expired.")
        if offset is not None and offset.path == request.path:
            for place, item in enumerate(items, start=1):
                if item.gid == offset.after:
                    return place
        raise Refused(400, "offset: Your pagination token is invalid or has expired")

    def _next(self, request: web.Request, last: Listed) -> dict[str, str]:
        offset = secrets.token_urlsafe(24)
        self._offsets[offset] = _Offset(request.path, last.gid, self._now() + LASTS)
        uri = request.url.update_query(offset=offset)
        path = str(uri.relative()).removeprefix("/api/1.0")
        return {"offset": offset, "path": path, "uri": str(uri)}


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= number <= 100:
        raise Refused(400, "limit: Must be a number between 1 and 100")
    return number
