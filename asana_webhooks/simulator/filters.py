"""Filters: those that a webhook may have, and the events that pass them.

Source: https://developers.asana.com/docs/webhooks-guide#filters
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .responses import Refused
from .state import Filter

__all__ = ["checked_filters", "part", "passes"]

KEYS = ("resource_type", "resource_subtype", "action", "fields")
ACTIONS = frozenset({"added", "changed", "removed", "deleted", "undeleted"})

HIGHER_LEVEL = frozenset({"workspace", "team", "portfolio", "goal"})
HIGHER_LEVEL_ACTIONS = {
    "project": ACTIONS,
    "team_membership": frozenset({"added", "removed"}),
    "workspace_membership": frozenset({"added", "removed"}),
}


def checked_filters(value: Any, resource_type: str) -> list[Filter]:
    """Return the filters of a request as Asana keeps them: all four keys, null where unsaid.

    Raises Refused when a webhook on a resource of this type cannot have them.
    """
    if not isinstance(value, list):
        raise Refused(400, "filters: Value is not an array")
    if not value and resource_type in HIGHER_LEVEL:
        raise Refused(400, f"filters: Webhooks on a {resource_type} require filters")
    filters = [_whole(item) for item in value]
    for item in filters:
        _check(item)
        if resource_type in HIGHER_LEVEL:
            _check_higher_level(item, resource_type)
    return filters


def _whole(value: Any) -> Filter:
    if not isinstance(value, dict) or not value.keys() <= set(KEYS):
        raise Refused(400, f"filters: Each filter is an object with the keys {', '.join(KEYS)}")
    return {key: value.get(key) for key in KEYS}


def _check(item: Filter) -> None:
    for key in ("resource_type", "resource_subtype", "action"):
        if not isinstance(item[key], str | None):
            raise Refused(400, f"filters: {key} is not a string")
    if item["action"] is not None and item["action"] not in ACTIONS:
        raise Refused(400, f"filters: action is none of {', '.join(sorted(ACTIONS))}")
    if item["fields"] is not None:
        _check_fields(item)


def _check_fields(item: Filter) -> None:
    fields = item["fields"]
    if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
        raise Refused(400, "filters: fields is not an array of strings")
    if item["action"] != "changed":
        raise Refused(400, "filters: fields is only valid for the action changed")


def _check_higher_level(item: Filter, resource_type: str) -> None:
    actions = HIGHER_LEVEL_ACTIONS.get(item["resource_type"])
    if actions is None:
        raise Refused(
            400,
            f"filters: Webhooks on a {resource_type} support only the resource types "
            + ", ".join(HIGHER_LEVEL_ACTIONS),
        )
    if item["action"] is not None and item["action"] not in actions:
        raise Refused(400, f"filters: {item['resource_type']} has no events {item['action']}")
    if item["fields"] is not None:
        raise Refused(400, f"filters: Webhooks on a {resource_type} do not support fields")


def passes(event: Mapping[str, Any], filters: Sequence[Filter]) -> bool:
    """Return whether an event in Asana's JSON shape passes any filter; none lets all pass."""
    return not filters or any(_matches(event, item) for item in filters)


def part(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object in an event; an empty one for anything else, which can be emitted too."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def _matches(event: Mapping[str, Any], item: Filter) -> bool:
    resource, change = part(event, "resource"), part(event, "change")
    return (
        item["resource_type"] in (None, resource.get("resource_type"))
        and item["resource_subtype"] in (None, resource.get("resource_subtype"))
        and item["action"] in (None, event.get("action"))
        and (not item["fields"] or change.get("field") in item["fields"])
    )
