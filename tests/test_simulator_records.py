"""Every record of the local Asana, held against Asana's description, however it is asked for.

``asana_openapi`` makes the description strict. The world of these tests has at least one object of
each kind that is served, so that each operation that shows records has something to show.
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support import asana_openapi
from support.plain_http import NO_TLS

from asana_webhooks.simulator.app import KINDS, OPERATIONS
from asana_webhooks.simulator.objects import Kind
from asana_webhooks.simulator.operations import DESCRIBED
from asana_webhooks.simulator.threaded import threaded_simulator

SHOWING = sorted(
    name for name in OPERATIONS if DESCRIBED[name].method == "GET" and OPERATIONS[name].shows
)
SINGLY = {kind.name: name for name in reversed(SHOWING) if (kind := OPERATIONS[name].shows)}
"""The operations that are asked for one field at a time, one for each kind of record."""

PARAMS: dict[str, dict[str, str]] = {
    "getTasks": {"project": "8675309"},
    "getPortfolios": {"workspace": "1331", "owner": "me"},
    "getTeamsForUser": {"organization": "1331"},
    "getMemberships": {"parent": "8675309"},
    "getStatusesForObject": {"parent": "8675309"},
    "getAttachmentsForObject": {"parent": "TASK"},
    "getTeamMemberships": {"team": "1350"},
    "getTeamMembershipsForUser": {"workspace": "1331"},
    "getUserTaskListForUser": {"workspace": "1331"},
    "typeaheadForWorkspace": {"resource_type": "task"},
}
"""What a list must be asked for; TASK stands for a task."""

SAID = {"title": "Half way", "text": "All is well"}

EMPTY = {"getCustomFieldSettingsForTeam"}
"""Lists of what no call can make."""


class World:
    """A client of a local Asana that nothing else uses."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, path: str, **data: Any) -> dict[str, Any]:
        record: dict[str, Any] = self._record(self.http.post(path, json={"data": data}))
        return record

    def put(self, path: str, **data: Any) -> dict[str, Any]:
        record: dict[str, Any] = self._record(self.http.put(path, json={"data": data}))
        return record

    def get(self, path: str, **params: Any) -> Any:
        return self._record(self.http.get(path, params=params))

    def _record(self, response: httpx.Response) -> Any:
        assert response.status_code in (200, 201), response.text
        assert asana_openapi.validate(response)
        return response.json()["data"]


def furnish(world: World) -> dict[str, str]:
    """Make something of each kind, and return the gids by the names that paths have for them."""
    project, workspace = {"projects": ["8675309"]}, {"workspace": "1331"}
    values = custom_values(world)
    task = world.post("/tasks", name="One", assignee="me", due_on="2026-12-24", **project)
    world.put(f"/tasks/{task['gid']}", custom_fields=values)
    approval = world.post("/tasks", resource_subtype="approval", parent=task["gid"])
    tag = world.post("/tags", name="Urgent", color="dark-red", **workspace)
    world.http.post(f"/tasks/{task['gid']}/addTag", json={"data": {"tag": tag["gid"]}})
    story = world.post(f"/tasks/{task['gid']}/stories", text="Hello & welcome")
    goal = world.post("/goals", name="Be quick", workspace="1331", team="1350")
    portfolio = world.post("/portfolios", name="All", **workspace)
    item = {"data": {"item": "8675309"}}
    world.http.post(f"/portfolios/{portfolio['gid']}/addItem", json=item)
    assert approval["approval_status"] == "pending"
    for path in (f"/portfolios/{portfolio['gid']}", "/projects/8675309"):
        field = {"data": {"custom_field": next(iter(values)), "is_important": True}}
        world.http.post(f"{path}/addCustomFieldSetting", json=field)
    made = {
        f"{kind}_gid": (world.post(path, **data))["gid"]
        for kind, path, data in (
            (
                "status_update",
                "/status_updates",
                {"parent": "8675309", **SAID, "status_type": "at_risk"},
            ),
            ("project_status", "/projects/8675309/project_statuses", {**SAID, "color": "red"}),
            (
                "time_tracking_entry",
                f"/tasks/{task['gid']}/time_tracking_entries",
                {"duration_minutes": 30, "attributable_to": "8675309"},
            ),
            (
                "attachment",
                "/attachments",
                {"parent": task["gid"], "url": "https://x.test/", "name": "x"},
            ),
            (
                "job",
                f"/tasks/{task['gid']}/duplicate",
                {"name": "Copy", "include": "projects,tags"},
            ),
            ("membership", "/memberships", {"parent": "8675309", "member": "1202"}),
        )
    }
    other = {"data": {"dependencies": [approval["gid"]]}}
    world.http.post(f"/tasks/{task['gid']}/addDependencies", json=other)
    world.http.post("/tasks/1301/addDependencies", json={"data": {"dependencies": [task["gid"]]}})
    world.put(f"/tasks/{task['gid']}", liked=True)
    shares = (world.get(f"/portfolios/{portfolio['gid']}/portfolio_memberships"))[0]
    teams = (world.get("/team_memberships", team="1350"))[0]
    return made | {
        "goal_gid": goal["gid"],
        "project_membership_gid": made["membership_gid"],
        "portfolio_membership_gid": shares["gid"],
        "team_membership_gid": teams["gid"],
        "workspace_membership_gid": "1361",
        "user_task_list_gid": (world.get("/users/me/user_task_list", workspace="1331"))["gid"],
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


def custom_values(world: World) -> dict[str, Any]:
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
        field = world.post("/custom_fields", **data)
        options = {each["name"]: each["gid"] for each in field["enum_options"]}
        setting = {"data": {"custom_field": field["gid"]}}
        world.http.post("/projects/8675309/addCustomFieldSetting", json=setting)
        if kind == "multi_enum":
            found[field["gid"]] = [options[each] for each in value]
        else:
            found[field["gid"]] = options[value] if kind == "enum" else value
    return found


@pytest.fixture(scope="module")
def furnished() -> Iterator[tuple[World, dict[str, str]]]:
    headers = {"Authorization": "Bearer any"}
    with (
        threaded_simulator(system_stories=True) as asana,
        httpx.Client(base_url=asana.base_url, headers=headers, verify=NO_TLS, timeout=30) as http,
    ):
        world = World(http)
        yield world, furnish(world)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWING)
def test_records_are_as_described_however_they_are_asked_for(
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
    # Each field by itself once for each record: what shows one shows it in lists alike.
    single = dict.fromkeys(every) if name == SINGLY[kind.name] else ()
    asked = [[], *([each] for each in single), [*kind.fields], *parts]
    for fields in asked:
        asked_for = PARAMS.get(name, {})
        params = {
            key: gids["task_gid"] if value == "TASK" else value for key, value in asked_for.items()
        }
        params |= {"opt_fields": ",".join(fields)} if fields else {}
        data = world.get(path, **params)
        assert data or name in EMPTY, f"there is nothing to show of {name}"
