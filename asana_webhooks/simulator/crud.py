"""Operations that most kinds of records have: show one, change one, delete one, list some.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web

from .call import ApiCall, Operation
from .objects import AsanaObject, Kind
from .values import flag

__all__ = ["LIKED", "changes", "deletes", "like", "links", "lists", "shows"]

Found = Callable[[ApiCall], Iterable[AsanaObject]]


def shows(kind: Kind) -> Operation:
    """Return the operation that shows the object that the path names."""

    async def show(call: ApiCall) -> web.Response:
        return call.one(call.thing)

    return Operation(show, shows=kind)


def changes(kind: Kind) -> Operation:
    """Return the operation that writes fields of the object that the path names, and shows it."""

    async def change(call: ApiCall) -> web.Response:
        thing = call.thing
        call.actions.change(thing, call.fields(kind))
        like(call, thing)
        return call.one(thing)

    return Operation(
        change, (*kind.writable, *(name for name in LIKED if name in kind.fields)), kind
    )


LIKED = ("liked", "hearted")


def like(call: ApiCall, thing: AsanaObject) -> None:
    """Have the caller like an object or no longer, when the call says so."""
    for name in LIKED:
        if name in call.given:
            call.actions.like(thing, liked=flag(name, call.given[name]))


def deletes() -> Operation:
    """Return the operation that deletes the object that the path names."""

    async def delete(call: ApiCall) -> web.Response:
        call.actions.delete(call.thing)
        return call.done()

    return Operation(delete)


def lists(kind: Kind, found: Found, *takes: str) -> Operation:
    """Return the operation that lists what ``found`` returns, those archived or not if asked."""

    async def list_(call: ApiCall) -> web.Response:
        things = found(call)
        if "archived" in takes and "archived" in call.given:
            archived = flag("archived", call.given["archived"])
            things = [each for each in things if each.fields["archived"] is archived]
        return call.many(things)

    return Operation(list_, takes, kind)


def links(kind: Kind, field: str, name: str, *, add: bool, users: bool = False) -> Operation:
    """Return the operation that puts entries into a list of an object, or takes them out.

    ``field`` is the list, ``name`` the input that names the entries: users, of which it shows the
    object afterwards, or one object, of which it shows nothing.
    """

    async def change(call: ApiCall) -> web.Response:
        thing = call.thing
        act = call.actions.link if add else call.actions.unlink
        for value in call.users(name) if users else [call.linked(name)]:
            act(thing, field, value)
        return call.one(thing) if users else call.done()

    return Operation(change, [name], kind if users else None)
