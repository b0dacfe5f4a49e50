"""One call of an operation: what it gives, which object its path names, and how it is answered.

A group of operations is a module of ``groups``, in four parts: the tables of its records, what
users do to them, the answers to calls, and ``OPERATIONS``, which maps the names of Asana's
operations to what is served of them. ``groups/tags.py`` is the shortest one with all four.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web
from yarl import URL

from . import values
from .access import check_access, may_see
from .caller import Caller
from .faults import Faults
from .fields import with_plain_texts
from .input import Inputs, Pages
from .objects import ALWAYS, AsanaObject, Kind, choose, compact
from .operations import Described
from .responses import Refused, answer, unknown
from .state import State
from .user_actions import UserActions

__all__ = ["OF_LISTS", "ApiCall", "Operation", "Service"]

logger = logging.getLogger(__name__)

OF_LISTS = ("limit", "offset")
"""Parameters of every GET; lists heed them."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts that all calls share: state, acts of users, pages, and the records by their types.

    ``faults`` are those that are on, and ``strict`` refuses what is not kept, instead of passing it
    over.
    """

    state: State
    actions: UserActions
    pages: Pages
    kinds: Mapping[str, Kind]
    faults: Faults
    strict: bool = False


@dataclass(frozen=True)
class Operation:
    """The part of one of Asana's operations that is served.

    ``answer`` answers its calls. ``takes`` names what it keeps of what a call gives, ``*`` stands
    for any letters. ``shows`` is the record that it answers with, None when that is no record.
    """

    answer: Callable[[ApiCall], Awaitable[web.Response]]
    takes: Sequence[str] = ()
    shows: Kind | None = None

    def ignored(self, inputs: Inputs, kinds: Mapping[str, Kind], *, get: bool) -> list[str]:
        """Return the names of what a call gives or wants to be shown, and this does not keep."""
        takes = (*self.takes, *OF_LISTS) if get else self.takes
        given = [
            name for name in inputs.given if not any(fnmatchcase(name, each) for each in takes)
        ]
        return given + [name for name in inputs.names if _lacks(self.shows, name, kinds)]


def _lacks(kind: Kind | None, name: str, kinds: Mapping[str, Kind]) -> bool:
    head, _, rest = name.partition(".")
    if kind is None or head in ALWAYS or head == "resource_subtype":
        return False
    if head not in kind.fields:
        return True
    of = kind.fields[head].of
    if isinstance(of, Mapping):
        key, _, rest = rest.partition(".")
        if key not in of:
            return bool(key)
        of = of[key]
    return bool(rest and of) and _lacks(kinds.get(of), rest, kinds)


class ApiCall:
    """One call of an operation, by a caller who may make it.

    ``takes`` are the names of what the operation keeps. ``given`` are the fields of its body and
    query, ``names`` those of ``opt_fields``. ``gids`` are
    the parts of its path by their names, such as ``task_gid``. Its ``url`` is not the request's in
    a batch.
    """

    def __init__(
        self,
        service: Service,
        described: Described,
        request: web.Request,
        caller: Caller,
        inputs: Inputs,
        takes: Sequence[str],
        gids: Mapping[str, str],
        url: URL,
    ) -> None:
        self.service = service
        self.described = described
        self.request = request
        self.caller = caller
        self.given, self.names = inputs
        self.takes = takes
        self.gids = gids
        self.url = url

    @property
    def state(self) -> State:
        """The state of this Asana."""
        return self.service.state

    @property
    def actions(self) -> UserActions:
        """The acts of users on objects; here it is the caller who does them."""
        return self.service.actions

    # What it is about

    @property
    def thing(self) -> AsanaObject:
        """The object that the path names last; raises Refused when it is not there to be seen."""
        return self.named(next(name for name in reversed([*self.gids]) if name.endswith("_gid")))

    def named(self, name: str) -> AsanaObject:
        """Return the object that a part of the path names, such as ``task_gid``.

        Users may be called ``me`` or by their address. Raises Refused when there is none, and when
        the caller may not see it.
        """
        gid, kind = self.gids[name], name.removesuffix("_gid")
        if kind == "user":
            return self._user(gid)
        thing = self.state.find(gid, kind)
        if thing is None:
            raise unknown(kind, gid)
        return check_access(self.state, kind, thing)

    def _user(self, name: str) -> AsanaObject:
        try:
            return values.user_of(self.state, "user", name)
        except Refused:
            raise unknown("user", name) from None

    # What it gives

    def text(self, name: str) -> str:
        """Return a text that must be given; raises Refused when it is not."""
        return values.required_text(self.given, name)

    def link(self, name: str, resource_type: str | None = None) -> AsanaObject | None:
        """Return the object that a field names, None when it names none.

        It is of the type that the field is called, unless another one is given. Raises Refused when
        there is no such object: 400 when the body names it, 404 when the query of a GET does.
        """
        try:
            return values.link(self.state, self.given, name, resource_type)
        except Refused as refusal:
            if self.described.method == "GET" and refusal.status == 400:
                raise unknown(name, str(self.given[name])) from None
            raise

    def linked(self, name: str, resource_type: str | None = None) -> AsanaObject:
        """Return the object that a field must name; raises Refused when it names none."""
        thing = self.link(name, resource_type)
        if thing is None:
            raise Refused(400, f"{name}: Missing input")
        return thing

    def links(self, name: str, resource_type: str) -> list[AsanaObject]:
        """Return the objects that a field lists, each once."""
        return values.links(self.state, self.given, name, resource_type)

    def users(self, name: str) -> list[AsanaObject]:
        """Return the users that a field must list, each once."""
        users = values.users_of(self.state, self.given, name)
        if not users:
            raise Refused(400, f"{name}: Missing input")
        return users

    def fields(self, kind: Kind) -> dict[str, Any]:
        """Return the fields that a call writes of a record, with links as objects.

        What is given as HTML is there as plain text too. A field that calls cannot write, and that
        the operation takes for nothing else, is refused.

        Raises Refused when a value is of the wrong kind.
        """
        for name in self.given:
            field = kind.fields.get(name)
            if field is not None and not field.write and name not in self.takes:
                raise Refused(400, f"{name}: Cannot write this property")
        return with_plain_texts(
            {
                name: each.write(self.state, name, self.given[name])
                for name, each in kind.fields.items()
                if each.write and name in self.given
            }
        )

    # How it is answered

    def one(
        self,
        record: AsanaObject | Mapping[str, Any],
        *,
        names: Sequence[str] = (),
        status: int = 200,
    ) -> web.Response:
        """Return the answer that shows one record: the fields that the call names, or these.

        Without any it is the whole record.
        """
        whole = record.kind.names if isinstance(record, AsanaObject) else tuple(record)
        return answer({"data": choose(record, self.names or names or whole)}, status=status)

    def many(self, things: Iterable[AsanaObject], *, names: Sequence[str] = ()) -> web.Response:
        """Return the answer that lists those objects that the caller may see, in pages.

        They are shown with the fields that the call names, or with these; else compactly.
        """
        state = self.state
        seen = [each for each in things if may_see(state.user, each)]
        return self.service.pages.answer(
            self.url, seen, lambda each: choose(each, self.names or names or compact(each))
        )

    def done(self) -> web.Response:
        """Return the answer that shows nothing."""
        return answer({"data": {}})
