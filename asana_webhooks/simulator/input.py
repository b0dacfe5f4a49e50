"""The inputs of calls: bodies, their fields, and the pages of lists.

Fields that are not named here are passed over. Asana's own wordings for most mistakes in them are
not documented: those here are ours, in its manner.

Sources: https://developers.asana.com/reference/rest-api-reference,
https://developers.asana.com/docs/pagination
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web

from .access import PRIVACY, check_access
from .objects import AsanaObject
from .responses import Refused, answer, unknown
from .state import State, timestamp

__all__ = [
    "Pages",
    "flag",
    "input_fields",
    "link",
    "links",
    "moment",
    "required_text",
    "user_of",
    "users_of",
    "writable",
]

Fields = Mapping[str, Any]
Check = Callable[[State, str, Any], Any]

SUBTYPES = frozenset({"default_task", "milestone", "approval"})


def writable(state: State, resource_type: str, given: Fields) -> dict[str, Any]:
    """Return the fields that a call gives an object of this type, with users as Things.

    Raises Refused when a value is of the wrong kind.
    """
    checks = WRITABLE[resource_type]
    return {name: checks[name](state, name, given[name]) for name in checks if name in given}


def required_text(given: Fields, name: str) -> str:
    """Return a text that must not be missing or empty; raises Refused when it is."""
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name}: Missing input")
    return value


def link(
    state: State, given: Fields, name: str, resource_type: str | None = None
) -> AsanaObject | None:
    """Return the object whose gid a field is, None when there is no such field.

    Raises Refused when there is no such object of the type that is named as the field.
    """
    value = given.get(name)
    if value is None:
        return None
    return _found(state, name, value, resource_type or name)


def links(state: State, given: Fields, name: str, resource_type: str) -> list[AsanaObject]:
    """Return the objects whose gids a field lists, in a form with commas between them."""
    value = given.get(name)
    gids = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(gids, list):
        raise Refused(400, f"{name}: Value is not an array")
    return list(dict.fromkeys(_found(state, name, gid, resource_type) for gid in gids))


def user_of(state: State, name: str, value: Any) -> AsanaObject:
    """Return the user that a call means by a gid, an email address, or ``me``."""
    if value == "me":
        return state.user
    users = state.all("user")
    found = next((each for each in users if value in (each.gid, each.fields["email"])), None)
    if found is None:
        raise unknown(name, str(value))
    return found


def users_of(state: State, given: Fields, name: str) -> list[AsanaObject]:
    """Return the users that a field lists, each once, in a form with commas between them."""
    values = given.get(name) or []
    values = values.split(",") if isinstance(values, str) else values
    if not isinstance(values, list):
        raise Refused(400, f"{name}: Value is not an array")
    return list(dict.fromkeys(user_of(state, name, value) for value in values))


def flag(name: str, value: Any) -> bool:
    """Return a boolean, or one that a form or a query spells, in Python's clients as ``True``.

    Raises Refused when it is none.
    """
    spelt = {"true": True, "false": False}
    found = spelt.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise Refused(400, f"{name}: Value is not a boolean")
    return found


def moment(name: str, text: str) -> str:
    """Return a time as Asana writes it, for one with any offset from UTC, of which none is UTC.

    Raises Refused when the text is no time.
    """
    try:
        time = datetime.fromisoformat(text)
        return timestamp(time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        raise Refused(400, f"{name}: Time must be in ISO-8601 format, not: {text}") from None


def _found(state: State, name: str, gid: Any, resource_type: str) -> AsanaObject:
    thing = state.find(gid, resource_type) if isinstance(gid, str) else None
    if thing is None:
        raise unknown(name, str(gid))
    return check_access(state, name, thing)


def _text(state: State, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(400, f"{name}: Value is not a string")
    return value


def _text_or_null(state: State, name: str, value: Any) -> str | None:
    return None if value is None else _text(state, name, value)


def _flag(state: State, name: str, value: Any) -> bool:
    return flag(name, value)


def _day(state: State, name: str, value: Any) -> str | None:
    text = _text_or_null(state, name, value)
    try:
        return text and date.fromisoformat(text).isoformat()
    except ValueError:
        message = f"{name}: Date must be in ISO-8601 (yyyy-mm-dd) format, not: {text}"
        raise Refused(400, message) from None


def _moment(state: State, name: str, value: Any) -> str | None:
    return None if value is None else moment(name, _text(state, name, value))


def _user(state: State, name: str, value: Any) -> AsanaObject | None:
    return None if value is None else user_of(state, name, value)


def _subtype(state: State, name: str, value: Any) -> str:
    if _text(state, name, value) not in SUBTYPES:
        raise Refused(400, f"{name}: Value is none of {', '.join(sorted(SUBTYPES))}")
    return str(value)


def _privacy(state: State, name: str, value: Any) -> str:
    if _text(state, name, value) not in PRIVACY:
        raise Refused(400, f"{name}: Value is none of {', '.join(PRIVACY)}")
    return str(value)


DATES: Mapping[str, Check] = {"due_on": _day, "start_on": _day}
NOTED: Mapping[str, Check] = {"name": _text, "notes": _text}

WRITABLE: Mapping[str, Mapping[str, Check]] = {
    "task": {
        **NOTED,
        "completed": _flag,
        "assignee": _user,
        "due_at": _moment,
        "resource_subtype": _subtype,
        **DATES,
    },
    "portfolio": {"name": _text, "color": _text_or_null, "public": _flag, **DATES},
    "project": {
        **NOTED,
        "archived": _flag,
        "color": _text_or_null,
        "owner": _user,
        "privacy_setting": _privacy,
        **DATES,
    },
    "section": {"name": _text},
    "tag": {**NOTED, "color": _text_or_null},
    "story": {"text": _text, "is_pinned": _flag},
    "team": {"name": _text, "description": _text},
    "user": {"name": _text},
    "workspace": {"name": _text},
}
"""The fields that calls may write, by the type of the object."""


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
        now = self._now()
        self._offsets = {
            key: old for key, old in self._offsets.items() if old.ends_at > now - LASTS
        }
        offset = secrets.token_urlsafe(24)
        self._offsets[offset] = _Offset(request.path, last.gid, now + LASTS)
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


async def input_fields(request: web.Request) -> Mapping[str, Any]:
    """Return the fields of a call's body: what is under ``data`` in JSON, or a form as it is.

    Raises Refused when the body is not what it says it is, or is JSON and holds no such object.
    """
    if request.content_type != "application/json":
        return await _form(request)
    try:
        body = msgspec.json.decode(await request.read())
    except (ValueError, RecursionError):
        raise Refused(400, "Could not parse request data, invalid JSON") from None
    fields = body.get("data") if isinstance(body, dict) else None
    if not isinstance(fields, dict):
        raise Refused(400, "data: Missing input")
    return fields


async def _form(request: web.Request) -> Mapping[str, Any]:
    try:
        return dict(await request.post())
    except (ValueError, LookupError):  # what aiohttp lets out: bytes, a charset, a missing boundary
        raise Refused(400, "Could not parse request data, invalid form") from None
