"""The operations that Asana's API has, as its description names them; not all are served here.

Source: https://github.com/Asana/openapi
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["DESCRIBED", "OLD_PATHS", "Described", "find"]


class Described(NamedTuple):
    """One operation; ``scope`` is empty when the description names none."""

    group: str
    name: str
    method: str
    path: str
    scope: str


def _read(text: str) -> Iterator[Described]:
    group = ""
    for line in text.splitlines():
        if line.startswith("# "):
            group = line[2:]
        elif line:
            name, method, path, scope = line.split()
            yield Described(group, name, method, path, scope.strip("-"))


DESCRIBED = {
    each.name: each for each in _read(Path(__file__).with_name("operations.txt").read_text("ascii"))
}
"""The operations by their names."""

OLD_PATHS = {
    ("GET", "/organizations/{workspace_gid}/teams"): "getTeamsForWorkspace",
    ("GET", "/tasks/{task_gid}/attachments"): "getAttachmentsForObject",
    ("POST", "/tasks/{task_gid}/attachments"): "createAttachmentForObject",
    **{
        ("GET", f"/{kind}s/{{{kind}_gid}}/events"): "getEvents"
        for kind in ("task", "project", "goal")
    },
}
"""Paths that no description has any more and programs of today call, with what answers them."""


def find(path: str) -> dict[str, tuple[Described, dict[str, str]]]:
    """Return the operations at a path below the API by their methods, with the path's variables."""
    found = {}
    for method, place, described in _PLACES.get(path.strip("/").partition("/")[0], ()):
        if method not in found and (match := _pattern(place).fullmatch(path)):
            found[method] = described, match.groupdict()
    return found


@cache
def _pattern(place: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", place) + "/?")


def _places() -> dict[str, list[tuple[str, str, Described]]]:
    """Return methods and paths by the first part of a path; one without variables comes first."""
    places = [(each.method, each.path, each) for each in DESCRIBED.values()]
    places += [(method, path, DESCRIBED[name]) for (method, path), name in OLD_PATHS.items()]
    below = defaultdict(list)
    for place in sorted(places, key=lambda each: each[1].replace("{", "~")):
        below[place[1].split("/")[1]].append(place)
    return below


_PLACES = _places()
