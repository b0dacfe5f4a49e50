"""Nothing is dropped in silence: what the local Asana does not serve, or does not keep, it says."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import local_asana
from support.local_asana import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running() as world:
        yield world


@pytest.fixture
async def strict() -> AsyncIterator[World]:
    async with local_asana.running(strict=True) as world:
        yield world


NOT_KEPT = [
    pytest.param("PUT", "/tasks/1301", {"name": "x", "colour": "red"}, {}, "colour", id="body"),
    pytest.param("GET", "/tasks/1301", None, {"opt_fields": "name,colour"}, "colour", id="field"),
    pytest.param(
        *("GET", "/tasks/1301", None, {"opt_fields": "memberships.section.colour,parent.name"}),
        "memberships.section.colour",
        id="nested",
    ),
    pytest.param("GET", "/users", None, {"colour": "red"}, "colour", id="filter"),
    pytest.param("GET", "/tags/1/tasks", None, {"a,b": "red"}, "'a,b'", id="with-a-comma"),
    pytest.param("GET", "/webhooks", None, {"workspace": "1331", "app": "1"}, "app", id="webhooks"),
]


@pytest.mark.parametrize(("method", "path", "data", "params", "name"), NOT_KEPT)
async def test_what_is_not_kept_is_said_in_a_header_and_once_in_the_log(
    world: World,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    data: Any,
    params: dict[str, str],
    name: str,
) -> None:
    body = None if data is None else {"data": data}
    tag = await world.post("/tags", workspace="1331")
    path = path.replace("/tags/1/", f"/tags/{tag['gid']}/")
    with caplog.at_level(logging.WARNING, "asana_webhooks"):
        for _ in range(2):
            response = await world.api.request(method, path, json=body, params=params)
            assert response.status_code == 200
            assert response.headers["Asana-Simulator"] == f"ignored={name}"
    [record] = caplog.records
    assert record.getMessage().startswith(f"the local Asana ignores {name} of ")


@pytest.mark.parametrize(("method", "path", "data", "params", "name"), NOT_KEPT)
async def test_strict_asana_refuses_what_it_does_not_keep_and_changes_nothing(
    strict: World, method: str, path: str, data: Any, params: dict[str, str], name: str
) -> None:
    tag = await strict.post("/tags", workspace="1331")
    path = path.replace("/tags/1/", f"/tags/{tag['gid']}/")
    status, message = await strict.refused(method, path, data, **params)
    assert (status, message.startswith(f"The local Asana does not keep {name} of ")) == (501, True)
    assert (await strict.get("/tasks/1301"))["name"] == "The login forgets its visitors"


async def test_call_whose_inputs_are_all_kept_has_no_such_header(strict: World) -> None:
    params = {"opt_fields": "this.name,memberships.(project|section).name", "opt_pretty": "true"}
    response = await strict.api.get("/tasks/1301", params=params)
    assert "Asana-Simulator" not in response.headers
    [membership] = response.json()["data"]["memberships"]
    assert membership == {
        "project": {"gid": "8675309", "name": "Bugs"},
        "section": {"gid": "1400", "name": "Untitled section"},
    }


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/rates", "getRates"),
        ("POST", "/rates", "createRate"),
        ("PUT", "/budgets/1", "updateBudget"),
        ("GET", "/workspaces/1331/audit_log_events", "getAuditLogEvents"),
    ],
)
async def test_operation_that_is_not_served_is_named(
    world: World, method: str, path: str, name: str
) -> None:
    status, message = await world.refused(method, path, {})
    assert (status, message) == (501, f"The local Asana does not serve {name} of Asana's API")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("DELETE", "/workspaces/1331"), ("POST", "/tasks/1301")],
)
async def test_call_that_asana_does_not_have_is_404(world: World, method: str, path: str) -> None:
    assert await world.refused(method, path) == (404, "No matching route for request")


@pytest.mark.parametrize("path", ["/tasks/1301/", "/users/me/", "/projects/?workspace=1331"])
async def test_slash_at_the_end_of_a_path_changes_nothing(world: World, path: str) -> None:
    assert (await world.api.get(path)).json() == (
        await world.api.get(path.replace("/?", "?").rstrip("/"))
    ).json()


# What a call cannot write


@pytest.mark.parametrize("name", ["modified_at", "workspace", "projects", "num_subtasks"])
async def test_field_that_calls_cannot_write_is_refused(world: World, name: str) -> None:
    refused = await world.refused("PUT", "/tasks/1301", {"name": "x", name: "1331"})
    assert refused == (400, f"{name}: Cannot write this property")
    assert (await world.get("/tasks/1301"))["name"] != "x"


# Batches


async def batch(world: World, *actions: dict[str, Any]) -> list[dict[str, Any]]:
    response = await world.api.post("/batch", json={"data": {"actions": list(actions)}})
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["data"]
    return results


async def test_actions_of_a_batch_are_answered_as_calls_of_their_own(world: World) -> None:
    changed, shown, missing, listed, unserved = await batch(
        world,
        {"method": "put", "relative_path": "/tasks/1301", "data": {"name": "By batch"}},
        {"method": "get", "relative_path": "/tasks/1301?opt_fields=name"},
        {"method": "get", "relative_path": "/tasks/7"},
        {"method": "get", "relative_path": "/tasks?project=8675309", "options": {"limit": 1}},
        {"method": "get", "relative_path": "/rates"},
    )
    assert (changed["status_code"], changed["body"]["data"]["name"]) == (200, "By batch")
    assert shown["body"] == {"data": {"gid": "1301", "name": "By batch"}}
    assert (missing["status_code"], "errors" in missing["body"]) == (404, True)
    assert (len(listed["body"]["data"]), listed["body"]["next_page"] is None) == (1, False)
    assert unserved["status_code"] == 501


async def test_batch_in_a_batch_is_not_carried_out(world: World) -> None:
    inner = {"method": "post", "relative_path": "/batch", "data": {"actions": []}}
    lost = {"method": "get", "relative_path": "/nothing"}
    assert [each["status_code"] for each in await batch(world, inner, lost)] == [501, 404]


@pytest.mark.parametrize(
    "actions", [None, [], [{}], ["x"], [{"method": "get", "relative_path": "/"}] * 11]
)
async def test_batch_without_one_to_ten_actions_is_refused(world: World, actions: Any) -> None:
    status, message = await world.refused("POST", "/batch", {"actions": actions})
    assert (status, message.startswith("actions: ")) == (400, True)


# Pages of other sites


async def test_page_of_another_site_may_call(world: World) -> None:
    asked = await world.api.options("/tasks/1301", headers={"Origin": "https://x.test"})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert (await world.api.get("/tasks/1301")).headers["Access-Control-Allow-Origin"] == "*"


# Options and inputs


async def test_options_may_be_in_the_body_and_in_the_query(world: World) -> None:
    body = {"data": {"name": "x"}, "options": {"fields": ["name", "parent.name"]}}
    changed = await world.api.put("/tasks/1301", json=body)
    assert changed.json()["data"] == {"gid": "1301", "name": "x", "parent": None}
    shown = await world.api.get("/tasks/1301", params={"options": '{"fields": "name"}'})
    assert shown.json()["data"] == {"gid": "1301", "name": "x"}
    assert (await world.api.get("/tasks/1301", params={"options": "{"})).status_code == 400
    repeated = await world.api.get("/tasks/1301?opt_fields=name&opt_fields=notes")
    assert repeated.json()["data"] == {"gid": "1301", "name": "x", "notes": ""}


async def test_inputs_may_be_in_the_query(world: World) -> None:
    created = await world.api.post("/tasks", params={"workspace": "1331", "name": "By query"})
    assert (created.status_code, created.json()["data"]["name"]) == (201, "By query")
