"""Fields that several records share: likes, links to Asana's pages, texts as HTML.

Sources: https://developers.asana.com/docs/rich-text,
https://developers.asana.com/reference/tasks
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from .objects import AsanaObject, Field
from .responses import Refused
from .state import ACTING, State
from .values import text

__all__ = ["LIKES", "PERMALINK", "html_of", "with_plain_texts"]

SITE = "https://app.asana.com/1"


def likers(thing: AsanaObject) -> list[AsanaObject]:
    """Return the users who like an object."""
    found: list[AsanaObject] = thing.hidden.get("likers", [])
    return found


def _likes(thing: AsanaObject) -> list[dict[str, Any]]:
    return [{"gid": f"{thing.gid}{user.gid}", "user": user} for user in likers(thing)]


def _liked(thing: AsanaObject) -> bool:
    return ACTING.get(None) in likers(thing)


def _count(thing: AsanaObject) -> int:
    return len(likers(thing))


LIKES: Mapping[str, Field] = {
    "hearted": Field(show=_liked),
    "hearts": Field(show=_likes, of={"gid": "", "user": "user"}),
    "liked": Field(show=_liked),
    "likes": Field(show=_likes, of={"gid": "", "user": "user"}),
    "num_hearts": Field(show=_count),
    "num_likes": Field(show=_count),
}
"""Likes, and the older name for them."""


def _permalink(thing: AsanaObject) -> str:
    workspace = thing.fields.get("workspace") or thing.fields["organization"]
    memberships = thing.fields.get("memberships")
    project = f"project/{memberships[0]['project'].gid}/" if memberships else ""
    return f"{SITE}/{workspace.gid}/{project}{thing.resource_type}/{thing.gid}"


PERMALINK: Mapping[str, Field] = {"permalink_url": Field(show=_permalink)}
"""The address of an object's page, as was seen of tasks."""


# Rich text

TAGS = frozenset(
    {"body", "strong", "em", "u", "s", "code", "ol", "ul", "li", "a", "blockquote", "pre"}
    | {"h1", "h2", "hr", "img", "table", "tr", "td", "object"}
)
BLOCKS = frozenset({"li", "h1", "h2", "blockquote", "pre", "tr"})


def html_of(name: str) -> Field:
    """Return the field that shows a plain text as HTML, or what was written as HTML as it was."""

    def show(thing: AsanaObject) -> str:
        written = thing.hidden.get(f"html_{name}")
        return written or f"<body>{html.escape(thing.fields[name], quote=False)}</body>"

    return Field(write=_rich_text, show=show, opt_in=True)


def _rich_text(state: State, name: str, value: Any) -> str:
    given = text(state, name, value)
    if re.search(r"<!(DOCTYPE|ENTITY)", given, re.IGNORECASE):
        raise Refused(400, f"{name}: XML is invalid")
    try:
        root = ET.fromstring(given)  # noqa: S314 - there are no entities in it
    except ET.ParseError:
        raise Refused(400, f"{name}: XML is invalid") from None
    if root.tag != "body":
        raise Refused(400, f"{name}: The root of the XML must be <body>")
    unknown = sorted({each.tag for each in root.iter()} - TAGS)
    if unknown:
        raise Refused(400, f"{name}: The tag {unknown[0]} is not supported")
    return given


def with_plain_texts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with a plain text beside each one that is given as HTML."""
    plain = {
        name.removeprefix("html_"): _plain(ET.fromstring(value))  # noqa: S314 - as above
        for name, value in fields.items()
        if name.startswith("html_")
    }
    return {**fields, **plain}


def _plain(element: ET.Element) -> str:
    inside = (element.text or "") + "".join(_plain(each) + (each.tail or "") for each in element)
    return inside + "\n" if element.tag in BLOCKS else inside
