"""What an answer of the API looks like: envelopes, errors, fields and pages.

Sources: https://developers.asana.com/docs/errors,
https://developers.asana.com/docs/inputoutput-options, https://developers.asana.com/docs/pagination
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

__all__ = ["Refused", "answer", "choose", "named_fields", "page", "single", "unknown"]

HELP = (
    "For more information on API status codes and how to handle them, read the docs on errors: "
    "https://developers.asana.com/docs/errors"
)


class Refused(Exception):  # noqa: N818 - it is an answer on its way, not a failure of this code
    """A call is answered with an error status, in Asana's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        phrase: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.headers = headers
        explanation = {"phrase": phrase} if phrase else {"help": HELP}
        self.body = {"errors": [{"message": message} | explanation]}

    def answer(self) -> web.Response:
        """Return the answer that says so."""
        return answer(self.body, status=self.status, headers=self.headers)


def unknown(what: str, gid: str) -> Refused:
    """Return the refusal for a gid that stands for nothing the caller may see."""
    return Refused(404, f"{what}: Unknown object: {gid}")


def answer(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer with Asana's usual headers."""
    usual = {"Content-Type": "application/json; charset=UTF-8", "X-Asana-Api-Version": "1.0"}
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=usual | dict(headers or {})
    )


def single(request: web.Request, record: Mapping[str, Any]) -> web.Response:
    """Return the answer that shows one record: whole, or the fields that the call names."""
    return answer({"data": choose(record, named_fields(request) or list(record))})


def named_fields(request: web.Request) -> list[str]:
    """Return the names in ``opt_fields``, none when the call has no such parameter."""
    text = request.query.get("opt_fields", "")
    return [name.strip() for name in text.split(",") if name.strip()]


def choose(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the gid and the named fields of a record; ``resource.name`` looks one level deeper.

    Names that the record lacks are passed over.
    """
    wanted: dict[str, set[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        wanted.setdefault(head, set()).update([rest] if rest else [])
    fields = {head: _narrow(record[head], deep) for head, deep in wanted.items() if head in record}
    return {"gid": record["gid"]} | fields


def _narrow(value: Any, names: set[str]) -> Any:
    if isinstance(value, list):
        return [_narrow(item, names) for item in value]
    if names and isinstance(value, dict):
        return {key: kept for key, kept in value.items() if key in names | {"gid"}}
    return value


def page(request: web.Request, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of the records that the call asks for, as a whole body.

    ``next_page`` is there only when ``limit`` was given, and null on the last page. An offset
    names the last record before it: it expires when that record is deleted.
    """
    limit = _limit(request.query.get("limit"))
    start = _start(request.query.get("offset"), records)
    if limit is None:
        return {"data": records[start:]}
    data = records[start : start + limit]
    more = start + limit < len(records)
    return {"data": data, "next_page": _next(request, _offset(data[-1])) if more else None}


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= number <= 100:
        raise Refused(400, "limit: Must be a number between 1 and 100")
    return number


def _start(offset: str | None, records: Sequence[Mapping[str, Any]]) -> int:
    if offset is None:
        return 0
    for place, record in enumerate(records, start=1):
        if _offset(record) == offset:
            return place
    raise Refused(400, "offset: Your pagination token is invalid or has expired")


def _offset(record: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"after:{record['gid']}".encode()).decode().rstrip("=")


def _next(request: web.Request, offset: str) -> dict[str, str]:
    uri = request.url.update_query(offset=offset)
    path = str(uri.relative()).removeprefix("/api/1.0")
    return {"offset": offset, "path": path, "uri": str(uri)}
