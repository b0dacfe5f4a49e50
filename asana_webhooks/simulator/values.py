"""The values that calls give: texts, numbers, times, users and other objects.

Asana's own wordings for most mistakes in them are not documented: those here are ours, in its
manner, but for what PROTOCOL.md of the project has seen.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import Any

from .access import check_access
from .objects import AsanaObject, Check
from .responses import Refused
from .state import State, timestamp

__all__ = [
    "COLORS",
    "DATES",
    "day",
    "flag",
    "link",
    "link_to",
    "links",
    "moment",
    "number",
    "one_of",
    "or_null",
    "place_beside",
    "required_text",
    "text",
    "time",
    "truth",
    "user",
    "user_of",
    "users",
    "users_of",
]

Fields = Mapping[str, Any]


# Checks of fields: they take the state, the name of the field and the value that a call gives.


def text(state: State, name: str, value: Any) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise Refused(400, f"{name}: Value is not a string")
    return value


def truth(state: State, name: str, value: Any) -> bool:
    """Return a boolean."""
    return flag(name, value)


def number(state: State, name: str, value: Any) -> float | int:
    """Return a finite number, also one that a form spells."""
    try:
        found = float(value) if isinstance(value, str) else value
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise TypeError
        if not math.isfinite(found):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Refused(400, f"{name}: Value is not a number") from None
    return int(found) if float(found).is_integer() else found


def day(state: State, name: str, value: Any) -> str:
    """Return a date as Asana writes it."""
    given = text(state, name, value)
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError:
        message = f"{name}: Date must be in ISO-8601 (yyyy-mm-dd) format, not: {given}"
        raise Refused(400, message) from None


def time(state: State, name: str, value: Any) -> str:
    """Return a time as Asana writes it."""
    return moment(name, text(state, name, value))


def user(state: State, name: str, value: Any) -> AsanaObject:
    """Return a user, who is named by a gid, an address or ``me``."""
    return user_of(state, name, value)


def users(state: State, name: str, value: Any) -> list[AsanaObject]:
    """Return a list of users."""
    return users_of(state, {name: value}, name)


def or_null(check: Check) -> Check:
    """Return the check that lets null pass too; a form spells it with no text."""

    def checked(state: State, name: str, value: Any) -> Any:
        return None if value is None else check(state, name, value)

    return checked


def one_of(*words: str) -> Check:
    """Return the check for one of these words."""

    def checked(state: State, name: str, value: Any) -> str:
        if text(state, name, value) not in words:
            raise Refused(400, f"{name}: Value is none of {', '.join(sorted(words))}")
        return str(value)

    return checked


def link_to(resource_type: str) -> Check:
    """Return the check for the gid of an object of this type, which returns the object."""

    def checked(state: State, name: str, value: Any) -> AsanaObject:
        return _found(state, name, value, resource_type)

    return checked


DATES: Mapping[str, Check] = {"due_on": or_null(day), "start_on": or_null(day)}

SHADES = ("pink", "green", "blue", "red", "teal", "brown", "orange", "purple", "warm-gray")
COLORS = (*(f"{tone}-{shade}" for tone in ("dark", "light") for shade in SHADES), "none")
"""The colors of projects, tags and portfolios."""


# What else a call gives


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
    return None if value is None else _found(state, name, value, resource_type or name)


def links(state: State, given: Fields, name: str, resource_type: str) -> list[AsanaObject]:
    """Return the objects whose gids a field lists, in a form with commas between them."""
    gids = enumerate(_listed(given, name))
    found = (_found(state, f"{name}: [{place}]", gid, resource_type) for place, gid in gids)
    return list(dict.fromkeys(found))


def place_beside(
    state: State,
    given: Fields,
    things: list[AsanaObject],
    resource_type: str,
    before: str = "insert_before",
    after: str = "insert_after",
) -> int | None:
    """Return the place in a list that a call names by what it is before or after; None for none.

    Raises Refused when both are named, or what is named is not in the list.
    """
    ahead, behind = (link(state, given, name, resource_type) for name in (before, after))
    if ahead is not None and behind is not None:
        raise Refused(400, f"You may only provide one of {before} or {after}!")
    beside = ahead or behind
    if beside is None:
        return None
    if beside not in things:
        raise Refused(400, f"{before if ahead else after}: Not in the same place: {beside.gid}")
    return things.index(beside) + (behind is not None)


def user_of(state: State, name: str, value: Any) -> AsanaObject:
    """Return the user that a call means by a gid, an email address, or ``me``."""
    if value == "me":
        return state.user
    found = state.find(value, "user") if isinstance(value, str) else None
    everybody = state.all("user") if found is None else ()
    found = found or next((each for each in everybody if each.fields["email"] == value), None)
    if found is None:
        raise Refused(400, f"{name}: Unknown object: {value}")
    return found


def users_of(state: State, given: Fields, name: str) -> list[AsanaObject]:
    """Return the users that a field lists, each once, in a form with commas between them."""
    return list(dict.fromkeys(user_of(state, name, value) for value in _listed(given, name)))


def _listed(given: Fields, name: str) -> Collection[Any]:
    values = given.get(name) or []
    values = values.split(",") if isinstance(values, str) else values
    if not isinstance(values, list):
        raise Refused(400, f"{name}: Value is not an array")
    return values


def _found(state: State, name: str, gid: Any, resource_type: str) -> AsanaObject:
    thing = state.find(gid, resource_type) if isinstance(gid, str) else None
    if thing is None:
        raise Refused(400, f"{name}: Unknown object: {gid}")
    return check_access(state, name, thing)


def flag(name: str, value: Any) -> bool:
    """Return a boolean, or one that a form or a query spells, in Python's clients as ``True``.

    Raises Refused when it is none.
    """
    spelt = {"true": True, "false": False}
    found = spelt.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise Refused(400, f"{name}: Value is not a boolean")
    return found


def moment(name: str, given: str) -> str:
    """Return a time as Asana writes it, for one with any offset from UTC, of which none is UTC.

    Raises Refused when the text is no time.
    """
    try:
        found = datetime.fromisoformat(given)
        return timestamp(found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        raise Refused(400, f"{name}: Time must be in ISO-8601 format, not: {given}") from None
