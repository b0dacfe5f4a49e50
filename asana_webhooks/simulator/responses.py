"""Answers of the API: envelopes, errors, and the fields of records.

Sources: https://developers.asana.com/docs/errors,
https://developers.asana.com/docs/inputoutput-options
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from .objects import AsanaObject, living

__all__ = ["Refused", "answer", "choose", "named_fields", "single", "unknown"]

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


def single(request: web.Request, record: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """Return the answer that shows one record: whole, or the fields that the call names."""
    return answer({"data": choose(record, named_fields(request) or list(record))}, status=status)


def named_fields(request: web.Request) -> list[str]:
    """Return the names in ``opt_fields``, none when the call has no such parameter."""
    text = request.query.get("opt_fields", "")
    return [name.strip() for name in text.split(",") if name.strip()]


def choose(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the gid and the named fields of a record; ``resource.name`` looks one level deeper.

    Names that the record lacks are passed over. Links are shown as compact records, or with the
    fields of theirs that are named; those to deleted objects are left out of lists.
    """
    wanted: dict[str, set[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        wanted.setdefault(head, set()).update([rest] if rest else [])
    gid = {"gid": record["gid"]} if "gid" in record else {}
    known = ((head, deep) for head, deep in wanted.items() if head in record)
    return gid | {head: _shown(record[head], deep) for head, deep in known}


def _shown(value: Any, names: set[str]) -> Any:
    if isinstance(value, list):
        return [_shown(item, names) for item in value if living(item)]
    if isinstance(value, AsanaObject):
        return choose(value.record, names or list(value.compact))
    if isinstance(value, Mapping):
        return choose(value, names or list(value))
    return value
