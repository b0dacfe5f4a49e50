"""Objects of this Asana: what their records have, how they are shown, whose webhooks see them.

A ``Kind`` is the table of a record: which fields it has, what a new object has in them, which of
them calls may write, and which are computed when they are shown.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/docs/inputoutput-options
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "ABSENT",
    "ALWAYS",
    "HIGHER_LEVEL",
    "AsanaObject",
    "Check",
    "Field",
    "Kind",
    "choose",
    "compact",
    "living",
    "seers",
]

Check = Callable[[Any, str, Any], Any]
"""Takes a State, a field's name and what a call gives; returns the value, or raises Refused."""

HIGHER_LEVEL = frozenset({"workspace", "team", "portfolio", "goal"})
"""Resources whose webhooks see projects and memberships, never tasks, subtasks or stories."""

HIGHER_LEVEL_SEES = frozenset({"project", "team_membership", "workspace_membership"})

ALWAYS = ("gid", "resource_type")
"""Fields that every record has."""


ABSENT = object()
"""The default of a field that records do not have until it is given."""


class Field(NamedTuple):
    """One field of a record.

    ``default`` is what a new object has; a list or a dict is copied. ``write`` checks what calls
    give; None: they cannot write it. ``show`` computes it from the object instead of keeping it.
    ``of`` is the kind that it links to, or the kinds by key when it holds links under keys; empty
    for plain values, and for links to any kind. ``opt_in``: shown only when a call names it.
    ``bare``: links are shown by gid and type, unless a call names more.
    """

    default: Any = None
    write: Check | None = None
    show: Callable[[AsanaObject], Any] | None = None
    of: str | Mapping[str, str] = ""
    opt_in: bool = False
    bare: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """The table of a record; ``compact`` are the fields that links and lists show.

    ``subtype`` is that of a new object, "" where records have none.
    """

    name: str
    fields: Mapping[str, Field]
    compact: tuple[str, ...] = ("name",)
    subtype: str = ""

    @property
    def writable(self) -> tuple[str, ...]:
        """The names of the fields that calls may write."""
        return tuple(name for name, each in self.fields.items() if each.write)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that a whole record shows, unless a call names others."""
        subtype = ("resource_subtype",) if self.subtype else ()
        shown = (name for name, each in self.fields.items() if not each.opt_in)
        return ("gid", "resource_type", *subtype, *shown)

    def defaults(self) -> dict[str, Any]:
        """Return the fields of a new object."""
        return {
            name: each.default.copy() if isinstance(each.default, list | dict) else each.default
            for name, each in self.fields.items()
            if not each.show and each.default is not ABSENT
        }


@dataclass(slots=True, kw_only=True, eq=False)
class AsanaObject:
    """An object of Asana that a webhook can watch or an event can name.

    ``fields`` is what is kept of its record; another object in it, also within a list or a
    membership, is a link. ``owner`` is what it is a part of and cannot outlive: a subtask's task, a
    story's task, a section's project; ``parts`` are those of which it is the owner, in order.
    ``holds`` is what is in it without being a part, in order: tasks of a section, projects of a
    portfolio; ``holders`` are the portfolios that it is in. ``hidden`` is what its record has no
    field for.
    """

    gid: str
    kind: Kind
    resource_subtype: str = ""
    owner: AsanaObject | None = None
    parts: list[AsanaObject] = field(default_factory=list)
    holds: list[AsanaObject] = field(default_factory=list)
    holders: list[AsanaObject] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    hidden: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False

    @property
    def resource_type(self) -> str:
        """Its type, as in ``resource_type``."""
        return self.kind.name

    @property
    def name(self) -> str:
        """Its name; empty for objects without one."""
        name: str = self.fields.get("name", "")
        return name

    @property
    def alive(self) -> bool:
        """Whether it is there for the users: neither deleted nor a part of what is."""
        return not self.deleted and (self.owner is None or self.owner.alive)

    def parts_of(self, resource_type: str) -> list[AsanaObject]:
        """Return its parts of a type that are there, in order."""
        return [each for each in self.parts if each.resource_type == resource_type and each.alive]

    def has(self, name: str) -> bool:
        """Return whether its record has this field."""
        if name in ALWAYS or name in self.fields:
            return True
        if name == "resource_subtype":
            return bool(self.resource_subtype)
        return name in self.kind.fields and self.kind.fields[name].show is not None

    def value(self, name: str) -> Any:
        """Return a field of its record; links in it are objects."""
        if name in ALWAYS or name == "resource_subtype":
            return getattr(self, name)
        show = self.kind.fields[name].show
        return show(self) if show else self.fields[name]

    def keep(self, fields: Mapping[str, Any]) -> None:
        """Keep these values; those of fields that are computed go to what is hidden.

        A text that is given plainly ends what was given as HTML: ``notes`` ends ``html_notes``.
        """
        for name, value in fields.items():
            if name == "resource_subtype":
                self.resource_subtype = value
            elif name in self.kind.fields and self.kind.fields[name].show:
                self.hidden[name] = value
            else:
                self.fields[name] = value
                if f"html_{name}" not in fields:
                    self.hidden.pop(f"html_{name}", None)

    @property
    def reference(self) -> dict[str, Any]:
        """Its reference in events: without its name."""
        bare = {"gid": self.gid, "resource_type": self.resource_type}
        return bare | ({"resource_subtype": self.resource_subtype} if self.resource_subtype else {})


def living(value: Any) -> bool:
    """Return whether a field's value may be shown: no link in it leads to what is deleted."""
    if isinstance(value, AsanaObject):
        return value.alive
    return not isinstance(value, Mapping) or all(map(living, value.values()))


def choose(
    record: AsanaObject | Mapping[str, Any], names: Iterable[str], *, bare: bool = False
) -> dict[str, Any]:
    """Return the gid and the named fields of a record; ``resource.name`` looks one level deeper.

    Names that the record lacks are passed over. Links are shown as compact records, or with the
    fields of theirs that are named; those to deleted objects are left out of lists. When it is
    ``bare`` they are shown by gid and type.
    """
    wanted: dict[str, set[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        wanted.setdefault(head, set()).update([rest] if rest else [])
    if isinstance(record, AsanaObject):
        known = {name: record.value(name) for name in wanted if record.has(name)}
        known = {"gid": record.gid} | known
    else:
        known = {name: record[name] for name in ("gid", *wanted) if name in record}
    return {
        name: _shown(value, wanted.get(name) or _bare(record, name), bare=bare)
        for name, value in known.items()
    }


def _bare(record: AsanaObject | Mapping[str, Any], name: str) -> Sequence[str]:
    fields = record.kind.fields if isinstance(record, AsanaObject) else {}
    return ALWAYS if name in fields and fields[name].bare else ()


def _shown(value: Any, names: Collection[str], *, bare: bool) -> Any:
    if isinstance(value, list):
        return [_shown(item, names, bare=bare) for item in value if living(item)]
    if isinstance(value, AsanaObject):
        return choose(value, names or (ALWAYS if bare else compact(value)))
    if isinstance(value, Mapping):
        return choose(value, names or list(value), bare=bare)
    return value


def compact(thing: AsanaObject) -> tuple[str, ...]:
    """Return the names of the fields of a compact record."""
    subtype = ("resource_subtype",) if thing.resource_subtype else ()
    return ("gid", "resource_type", *subtype, *thing.kind.compact)


def seers(thing: AsanaObject, parent: AsanaObject | None = None) -> frozenset[str]:
    """Return the gids of the objects whose webhooks and event streams see an event.

    Events bubble up: from a story to its task, from a subtask to its task, from a task to its
    projects, from a project to its team and workspace; and what is added or removed is seen by the
    ``parent`` too. Only projects and memberships reach higher-level resources.
    """
    found = {each.gid: each for start in (thing, parent) if start for each in _upwards(start)}
    high = thing.resource_type in HIGHER_LEVEL_SEES
    return frozenset(
        gid for gid, each in found.items() if high or each.resource_type not in HIGHER_LEVEL
    )


def _upwards(thing: AsanaObject) -> Iterator[AsanaObject]:
    yield thing
    above = [thing.owner, *map(thing.fields.get, ("team", "workspace", "organization"))]
    above += [each["project"] for each in thing.fields.get("memberships", ())]
    above += thing.holders
    for each in above:
        if each is not None:
            yield from _upwards(each)
