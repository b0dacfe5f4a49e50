"""What the fields of a call's body may be, and how they are read.

Fields that are not named here are passed over. Asana's own wordings for most mistakes in them are
not documented: those here are ours, in its manner.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from .answers import Refused, unknown
from .state import State, timestamp
from .things import Thing

__all__ = ["flag", "link", "links", "moment", "required_text", "user_of", "writable"]

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


def link(state: State, given: Fields, name: str, resource_type: str | None = None) -> Thing | None:
    """Return the object whose gid a field is, None when there is no such field.

    Raises Refused when there is no such object of the type that is named as the field.
    """
    value = given.get(name)
    if value is None:
        return None
    return _found(state, name, value, resource_type or name)


def links(state: State, given: Fields, name: str, resource_type: str) -> list[Thing]:
    """Return the objects whose gids a field lists, in a form with commas between them."""
    value = given.get(name)
    gids = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(gids, list):
        raise Refused(400, f"{name}: Value is not an array")
    return list(dict.fromkeys(_found(state, name, gid, resource_type) for gid in gids))


def user_of(state: State, name: str, value: Any) -> Thing:
    """Return the user that a call means by a gid, an email address, or ``me``."""
    if value == "me":
        return state.user
    users = state.all("user")
    found = next((each for each in users if value in (each.gid, each.fields["email"])), None)
    if found is None:
        raise unknown(name, str(value))
    return found


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


def _found(state: State, name: str, gid: Any, resource_type: str) -> Thing:
    thing = state.find(gid, resource_type) if isinstance(gid, str) else None
    if thing is None:
        raise unknown(name, str(gid))
    return thing


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


def _user(state: State, name: str, value: Any) -> Thing | None:
    return None if value is None else user_of(state, name, value)


def _subtype(state: State, name: str, value: Any) -> str:
    if _text(state, name, value) not in SUBTYPES:
        raise Refused(400, f"{name}: Value is none of {', '.join(sorted(SUBTYPES))}")
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
    "project": {**NOTED, "archived": _flag, "color": _text_or_null, "owner": _user, **DATES},
    "section": {"name": _text},
    "tag": {**NOTED, "color": _text_or_null},
    "story": {"text": _text, "is_pinned": _flag},
    "team": {"name": _text, "description": _text},
    "user": {"name": _text},
    "workspace": {"name": _text},
}
"""What calls may write, by the type of the object."""
