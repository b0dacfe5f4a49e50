"""Every record of the local Asana, held against Asana's description, however it is asked for.

``asana_openapi`` makes the description strict. The world of these tests has at least one object of
each kind that is served, so that each operation that shows records has something to show.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import asana_openapi, local_asana
from support.local_asana import World

from asana_webhooks.simulator.app import KINDS, OPERATIONS
from asana_webhooks.simulator.objects import Kind
from asana_webhooks.simulator.operations import DESCRIBED

SHOWING = sorted(
    name for name in OPERATIONS if DESCRIBED[name].method == "GET" and OPERATIONS[name].shows
)
PARAMS: dict[str, dict[str, str]] = {
    "getTasks": {"project": "8675309"},
    "getPortfolios": {"workspace": "1331", "owner": "me"},
    "getTeamsForUser": {"organization": "1331"},
}
"""What a list must be asked for."""

EMPTY = {"getCustomFieldSettingsForTeam"}
"""Lists of what no call can make."""


async def furnish(world: World) -> dict[str, str]:
    """Make something of each kind, and return the gids by the names that paths have for them."""
    project, workspace = {"projects": ["8675309"]}, {"workspace": "1331"}
    values = await custom_values(world)
    task = await world.post("/tasks", name="One", assignee="me", due_on="2026-12-24", **project)
    await world.put(f"/tasks/{task['gid']}", custom_fields=values)
    approval = await world.post("/tasks", resource_subtype="approval", parent=task["gid"])
    tag = await world.post("/tags", name="Urgent", color="dark-red", **workspace)
    await world.api.post(f"/tasks/{task['gid']}/addTag", json={"data": {"tag": tag["gid"]}})
    story = await world.post(f"/tasks/{task['gid']}/stories", text="Hello & welcome")
    portfolio = await world.post("/portfolios", name="All", **workspace)
    item = {"data": {"item": "8675309"}}
    await world.api.post(f"/portfolios/{portfolio['gid']}/addItem", json=item)
    assert approval["approval_status"] == "pending"
    for path in (f"/portfolios/{portfolio['gid']}", "/projects/8675309"):
        field = {"data": {"custom_field": next(iter(values)), "is_important": True}}
        await world.api.post(f"{path}/addCustomFieldSetting", json=field)
    return {
        "custom_field_gid": next(iter(values)),
        "task_gid": task["gid"],
        "tag_gid": tag["gid"],
        "story_gid": story["gid"],
        "portfolio_gid": portfolio["gid"],
        "project_gid": "8675309",
        "section_gid": "1400",
        "team_gid": "1350",
        "user_gid": "me",
        "workspace_gid": "1331",
    }


async def custom_values(world: World) -> dict[str, Any]:
    """Return a value of a custom field of each type, all of which are on the project."""
    given: dict[str, Any] = {
        "enum": "Low",
        "multi_enum": ["Low", "High"],
        "text": "x",
        "number": 1.5,
        "date": {"date": "2026-12-24"},
        "people": ["me"],
    }
    found: dict[str, Any] = {}
    for kind, value in given.items():
        data: dict[str, Any] = {"name": kind, "resource_subtype": kind, "workspace": "1331"}
        if "enum" in kind:
            data["enum_options"] = [{"name": "Low", "color": "green"}, {"name": "High"}]
        field = await world.post("/custom_fields", **data)
        options = {each["name"]: each["gid"] for each in field["enum_options"]}
        setting = {"data": {"custom_field": field["gid"]}}
        await world.api.post("/projects/8675309/addCustomFieldSetting", json=setting)
        if kind == "multi_enum":
            found[field["gid"]] = [options[each] for each in value]
        else:
            found[field["gid"]] = options[value] if kind == "enum" else value
    return found


@pytest.fixture
async def furnished() -> AsyncIterator[tuple[World, dict[str, str]]]:
    async with local_asana.running(system_stories=True) as world:
        yield world, await furnish(world)


def nested(kind: Kind) -> list[str]:
    """Return the names of the fields of a record, and of those of the records that it links to."""
    names = [*kind.fields]
    for name, field in kind.fields.items():
        kinds = [(f"{name}.", field.of)] if isinstance(field.of, str) else []
        if not isinstance(field.of, str):
            kinds = [(f"{name}.{key}.", each) for key, each in field.of.items()]
        names += [
            f"{head}{below}" for head, of in kinds if of in KINDS for below in KINDS[of].fields
        ]
    return names


@pytest.mark.parametrize("name", SHOWING)
async def test_records_are_as_described_however_they_are_asked_for(
    name: str, furnished: tuple[World, dict[str, str]]
) -> None:
    world, gids = furnished
    kind = OPERATIONS[name].shows
    assert kind is not None
    path = re.sub(r"{(\w+)}", lambda found: gids[found[1]], DESCRIBED[name].path)
    described = asana_openapi.operation_of("GET", path)
    assert described is not None
    every = [*described.get("opt_fields", []), *nested(kind)]
    parts = [every[start : start + 100] for start in range(0, len(every), 100)]  # for the URL
    asked = [[], *([each] for each in dict.fromkeys(every)), [*kind.fields], *parts]
    for fields in asked:
        params = PARAMS.get(name, {}) | ({"opt_fields": ",".join(fields)} if fields else {})
        response = await world.api.get(path, params=params)
        assert response.status_code == 200, response.text
        data: Any = response.json()["data"]
        assert data or name in EMPTY, f"there is nothing to show of {name}"
