"""Custom fields of the local Asana: definitions, settings, values, and what is told of them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import local_asana
from support.local_asana import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running(system_stories=True) as world:
        yield world


async def define(world: World, kind: str, **fields: Any) -> dict[str, Any]:
    """Return a custom field of a type that is on the project, with two options if it has any."""
    data = {"name": "Extra", "resource_subtype": kind, "workspace": "1331"} | fields
    if "enum" in kind:
        data["enum_options"] = [{"name": "Low", "color": "green"}, {"name": "High"}]
    field = await world.post("/custom_fields", **data)
    await world.api.post(
        "/projects/8675309/addCustomFieldSetting", json={"data": {"custom_field": field["gid"]}}
    )
    return field


async def put(world: World, field: str, value: Any) -> dict[str, Any]:
    """Return a custom field of the task, after it was given a value."""
    task = await world.put("/tasks/1301", custom_fields={field: value})
    found: dict[str, Any] = next(each for each in task["custom_fields"] if each["gid"] == field)
    return found


@pytest.mark.parametrize(
    ("kind", "value", "name", "shown", "display"),
    [
        ("text", "Some words", "text_value", "Some words", "Some words"),
        ("number", 2.5, "number_value", 2.5, "2.5"),
        ("number", 3.0, "number_value", 3, "3"),
        ("date", {"date": "2026-12-24"}, "date_value", {"date": "2026-12-24"}, "2026-12-24"),
        (
            *("date", {"date_time": "2026-12-24T19:00:00+01:00"}, "date_value"),
            {"date": "2026-12-24", "date_time": "2026-12-24T18:00:00.000Z"},
            "2026-12-24T18:00:00.000Z",
        ),
    ],
    ids=["text", "number", "whole", "date", "time"],
)
async def test_value_is_kept_and_displayed(
    world: World, kind: str, value: Any, name: str, shown: Any, display: str
) -> None:
    gid = (await define(world, kind))["gid"]
    assert (await put(world, gid, None))["display_value"] is None
    found = await put(world, gid, value)
    assert (found[name], found["display_value"], found["type"]) == (shown, display, kind)
    assert (await put(world, gid, None))[name] is None


async def test_values_that_are_lists_hold_options_and_people(world: World) -> None:
    several, people = await define(world, "multi_enum"), await define(world, "people")
    low, high = (each["gid"] for each in several["enum_options"])
    found = await put(world, several["gid"], [low, high, low])
    assert [each["name"] for each in found["multi_enum_values"]] == ["Low", "High"]
    assert found["display_value"] == "Low, High"
    found = await put(world, people["gid"], ["me", "1202"])
    assert [each["gid"] for each in found["people_value"]] == ["1201", "1202"]
    assert (await put(world, people["gid"], []))["people_value"] == []


async def test_event_of_an_enumeration_says_the_option_and_the_story_both(world: World) -> None:
    field = await define(world, "enum")
    low, high = field["enum_options"]
    await put(world, field["gid"], low["gid"])
    webhook = await world.watch("1301", {"resource_type": "task"})
    await put(world, field["gid"], high["gid"])
    await put(world, field["gid"], high["gid"])
    await put(world, field["gid"], None)
    first, second = [event["change"] for [event] in await world.told(webhook)]
    value = {"gid": field["gid"], "resource_type": "custom_field", "resource_subtype": "enum"}
    option = {"gid": high["gid"], "resource_type": "enum_option"}
    said = {"field": "custom_fields", "action": "changed"}
    assert first == said | {"new_value": value | {"enum_value": option}}
    assert second == said | {"new_value": value | {"enum_value": None}}
    *_, story, cleared = await world.get("/tasks/1301/stories")
    assert story["resource_subtype"] == "enum_custom_field_changed"
    assert (story["text"], cleared["text"]) == ('changed Extra to "High"', "cleared Extra")
    whole = await world.get(f"/stories/{story['gid']}")
    assert whole["custom_field"]["gid"] == field["gid"]
    assert (whole["old_enum_value"]["name"], whole["new_enum_value"]["name"]) == ("Low", "High")


async def test_event_of_another_type_says_the_field_only(world: World) -> None:
    gid = (await define(world, "number"))["gid"]
    webhook = await world.watch("1301", {"resource_type": "task"})
    await put(world, gid, 7)
    [[event]] = await world.told(webhook)
    value = {"gid": gid, "resource_type": "custom_field", "resource_subtype": "number"}
    assert event["change"]["new_value"] == value


async def test_new_task_has_the_values_that_it_is_given(world: World) -> None:
    gid = (await define(world, "text"))["gid"]
    task = await world.post("/tasks", projects=["8675309"], custom_fields={gid: "From birth"})
    [field] = task["custom_fields"]
    assert field["text_value"] == "From birth"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("text", 7, "custom_fields: Value is not a string"),
        ("number", "many", "custom_fields: Value is not a number"),
        ("number", True, "custom_fields: Value is not a number"),
        ("date", "2026-12-24", "custom_fields: Value of {gid} has no date"),
        (
            "date",
            {"date": "soon"},
            "custom_fields: Date must be in ISO-8601 (yyyy-mm-dd) format, not: soon",
        ),
        ("enum", "7", "custom_fields: Not an enabled option of {gid}: 7"),
        ("multi_enum", "7", "custom_fields: Value of {gid} is not an array"),
        ("people", ["7"], "custom_fields: Unknown object: 7"),
    ],
)
async def test_value_of_another_type_is_refused(
    world: World, kind: str, value: Any, message: str
) -> None:
    gid = (await define(world, kind))["gid"]
    data = {"custom_fields": {gid: value}, "name": "Changed"}
    refused = await world.refused("PUT", "/tasks/1301", data)
    assert refused == (400, message.format(gid=gid))
    assert (await world.get("/tasks/1301"))["name"] != "Changed"


async def test_value_of_a_field_that_the_task_does_not_have_is_refused(world: World) -> None:
    refused = await world.refused("PUT", "/tasks/1301", {"custom_fields": {"7": 1}})
    assert refused == (400, "Custom field with ID 7 is not on given object")
    refused = await world.refused("PUT", "/tasks/1301", {"custom_fields": [7]})
    assert refused == (400, "custom_fields: Value is not an object")


async def test_option_that_is_disabled_cannot_be_chosen(world: World) -> None:
    field = await define(world, "enum")
    low, _ = field["enum_options"]
    await world.put(f"/enum_options/{low['gid']}", enabled=False, name="Lowest")
    status, _ = await world.refused(
        "PUT", "/tasks/1301", {"custom_fields": {field["gid"]: low["gid"]}}
    )
    assert status == 400


async def test_options_have_an_order_that_can_be_changed(world: World) -> None:
    field = await define(world, "enum")
    low, high = (each["gid"] for each in field["enum_options"])
    path = f"/custom_fields/{field['gid']}"
    middle = await world.post(f"{path}/enum_options", name="Middle", insert_after=low)
    await world.post(f"{path}/enum_options/insert", enum_option=high, before_enum_option=low)
    options = (await world.get(path))["enum_options"]
    assert [each["gid"] for each in options] == [high, low, middle["gid"]]
    refused = await world.refused("POST", f"{path}/enum_options/insert", {"enum_option": high})
    assert refused == (400, "before_enum_option: Missing input")


async def test_field_that_is_taken_from_a_project_is_gone_from_its_tasks(world: World) -> None:
    gid = (await define(world, "text"))["gid"]
    assert await world.gids("/workspaces/1331/custom_fields") == [gid]
    assert len(await world.gids("/projects/8675309/custom_field_settings")) == 1
    webhook = await world.watch("8675309")
    taken = {"data": {"custom_field": gid}}
    for action in ("addCustomFieldSetting", "removeCustomFieldSetting", "removeCustomFieldSetting"):
        await world.api.post(f"/projects/8675309/{action}", json=taken)
    [[event]] = await world.told(webhook)
    assert (event["change"]["field"], event["change"]["action"]) == (
        "custom_field_settings",
        "removed",
    )
    assert (await world.get("/tasks/1301"))["custom_fields"] == []
    assert await world.gids("/projects/8675309/custom_field_settings") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "resource_subtype": "text"}, "workspace: Missing input"),
        ({"workspace": "1331", "resource_subtype": "text"}, "name: Missing input"),
        ({"workspace": "1331", "name": "x"}, "resource_subtype: Value is not a string"),
        (
            {"workspace": "1331", "name": "x", "resource_subtype": "enum", "enum_options": [7]},
            "enum_options: Value is not an array of objects",
        ),
        (
            {"workspace": "1331", "name": "x", "resource_subtype": "enum", "enum_options": [{}]},
            "name: Missing input",
        ),
    ],
)
async def test_definition_without_what_it_needs_is_refused(
    world: World, data: dict[str, Any], message: str
) -> None:
    assert await world.refused("POST", "/custom_fields", data) == (400, message)
