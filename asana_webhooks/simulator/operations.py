"""The operations that Asana's API has, as its description names them; not all are served here.

Source: https://github.com/Asana/openapi
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["DESCRIBED", "OLD_PATHS", "Described"]


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
