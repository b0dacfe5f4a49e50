"""Calls of the local Asana that programs make beside those on tasks: what they do, and tell."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import local_asana
from support.local_asana import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running(system_stories=True) as world:
        yield world


async def act(world: World, path: str, **data: Any) -> None:
    response = await world.api.post(path, json={"data": data})
    assert response.json() == {"data": {}}, response.text


async def changes(world: World, webhook: str) -> list[tuple[str, str, str]]:
    """Return the field, the action and the task of each change that a webhook was told of."""
    events = [event for body in await world.told(webhook) for event in body if "change" in event]
    return [
        (event["change"]["field"], event["change"]["action"], event["resource"]["gid"])
        for event in events
    ]


# Dependencies


async def test_dependency_is_told_of_both_tasks_and_ends_with_either_call(world: World) -> None:
    webhook = await world.watch("8675309", {"resource_type": "task"})
    await act(world, "/tasks/1301/addDependencies", dependencies=["1302", "1303"])
    assert await world.gids("/tasks/1301/dependencies") == ["1302", "1303"]
    assert await world.gids("/tasks/1302/dependents") == ["1301"]
    assert (await changes(world, webhook))[:2] == [
        ("dependencies", "added", "1301"),
        ("dependents", "added", "1302"),
    ]
    await act(world, "/tasks/1302/removeDependents", dependents=["1301"])
    await act(world, "/tasks/1301/removeDependencies", dependencies=["1302"])
    assert await world.gids("/tasks/1301/dependencies") == ["1303"]
    stories = await world.get("/tasks/1302/stories")
    assert [each["resource_subtype"] for each in stories] == [
        "dependent_added",
        "dependent_removed",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "dependencies: Missing input"),
        ({"dependencies": ["1301"]}, "dependencies: A task cannot depend on itself"),
        ({"dependencies": ["7"]}, "dependencies: [0]: Unknown object: 7"),
    ],
)
async def test_dependency_that_cannot_be_is_refused(
    world: World, data: dict[str, Any], message: str
) -> None:
    assert await world.refused("POST", "/tasks/1301/addDependencies", data) == (400, message)


async def test_task_has_thirty_dependencies_at_most(world: World) -> None:
    tasks = [(await world.post("/tasks", workspace="1331"))["gid"] for _ in range(31)]
    status, _ = await world.refused("POST", "/tasks/1301/addDependencies", {"dependencies": tasks})
    assert status == 400
    await act(world, "/tasks/1301/addDependencies", dependencies=tasks[:30])


# Likes


async def test_like_is_counted_once_for_each_user(world: World) -> None:
    webhook = await world.watch("1301", {"resource_type": "task"})
    for _ in range(2):
        liked = await world.put("/tasks/1301", liked=True)
    assert (liked["liked"], liked["num_likes"], liked["likes"][0]["user"]["gid"]) == (
        True,
        1,
        "1201",
    )
    unliked = await world.put("/tasks/1301", hearted="false")
    assert (unliked["hearted"], unliked["num_hearts"]) == (False, 0)
    assert await changes(world, webhook) == [
        ("likes", "added", "1301"),
        ("likes", "removed", "1301"),
    ]


# Attachments


async def test_file_is_attached_with_its_name_and_length(world: World) -> None:
    files = {"file": ("notes.txt", b"Hello", "text/plain")}
    response = await world.api.post("/attachments", data={"parent": "1301"}, files=files)
    attachment = response.json()["data"]
    assert (attachment["name"], attachment["size"], attachment["host"]) == ("notes.txt", 5, "asana")
    old = await world.api.post("/tasks/1301/attachments", files=files)
    assert old.status_code == 200
    gids = [attachment["gid"], old.json()["data"]["gid"]]
    assert await world.gids("/attachments", parent="1301") == gids
    assert await world.gids("/tasks/1301/attachments") == gids
    await world.api.delete(f"/attachments/{gids[0]}")
    assert await world.gids("/attachments", parent="1301") == gids[1:]
    stories = await world.get("/tasks/1301/stories")
    assert [each["text"] for each in stories] == ["attached notes.txt"] * 2


async def test_link_is_attached_to_a_project(world: World) -> None:
    data = {
        "parent": "8675309",
        "url": "https://x.test/",
        "name": "Plan",
        "resource_subtype": "external",
    }
    attachment = await world.post("/attachments", **data)
    assert (attachment["view_url"], attachment["resource_subtype"]) == (
        "https://x.test/",
        "external",
    )
    assert attachment["parent"]["gid"] == "8675309"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"parent": "1301"}, "file: Missing input"),
        ({"parent": "1301", "url": "https://x.test/"}, "name: Missing input"),
        ({"parent": "1400", "url": "https://x.test/"}, "parent: Unknown object: 1400"),
        ({}, "parent: Missing input"),
    ],
)
async def test_attachment_without_what_it_needs_is_refused(
    world: World, data: dict[str, str], message: str
) -> None:
    assert await world.refused("POST", "/attachments", data) == (400, message)


# Status updates


async def test_status_update_is_the_current_one_until_it_is_deleted(world: World) -> None:
    first = await world.post(
        "/status_updates", parent="8675309", text="Well", status_type="on_track"
    )
    second = await world.post("/projects/8675309/project_statuses", text="Late", color="yellow")
    project = await world.get("/projects/8675309")
    assert project["current_status"]["gid"] == second["gid"]
    updates = await world.gids("/status_updates", parent="8675309")
    assert updates[1:] == [first["gid"]]
    newest = await world.get(f"/status_updates/{updates[0]}")
    assert (newest["text"], newest["status_type"]) == ("Late", "at_risk")
    await world.api.delete(f"/project_statuses/{second['gid']}")
    project = await world.get("/projects/8675309")
    assert project["current_status_update"]["gid"] == first["gid"]
    await world.api.delete(f"/status_updates/{first['gid']}")
    assert (await world.get("/projects/8675309"))["current_status"] is None
    assert await world.gids("/projects/8675309/project_statuses") == []


@pytest.mark.parametrize(
    ("method", "data", "status", "message"),
    [
        ("POST", {"parent": "8675309", "status_type": "on_track"}, 400, "text: Missing input"),
        ("POST", {"parent": "8675309", "text": "x"}, 400, "status_type: Missing input"),
        ("POST", {"parent": "7", "text": "x"}, 400, "parent: Unknown object: 7"),
        ("GET", None, 404, "parent: Unknown object: 7"),
    ],
)
async def test_status_update_without_what_it_needs_is_refused(
    world: World, method: str, data: Any, status: int, message: str
) -> None:
    params = {"parent": "7"} if method == "GET" else {}
    assert await world.refused(method, "/status_updates", data, **params) == (status, message)


# Time


async def test_time_of_a_task_is_the_sum_of_its_entries(world: World) -> None:
    path = "/tasks/1301/time_tracking_entries"
    first = await world.post(path, duration_minutes=30)
    second = await world.post(path, duration_minutes=45, entered_on="2026-01-31")
    assert (await world.get("/tasks/1301"))["actual_time_minutes"] == 75
    await world.put(f"/time_tracking_entries/{first['gid']}", duration_minutes=15)
    assert (await world.get("/tasks/1301"))["actual_time_minutes"] == 60
    until = {"entered_on_end_date": "2026-02-01", "task": "1301", "user": "me"}
    assert await world.gids("/time_tracking_entries", **until) == [second["gid"]]
    for entry in await world.gids(path):
        await world.api.delete(f"/time_tracking_entries/{entry}")
    assert (await world.get("/tasks/1301"))["actual_time_minutes"] is None
    assert await world.refused("POST", path, {}) == (400, "duration_minutes: Missing input")


# Users' tasks and memberships


async def test_list_of_a_user_holds_what_is_assigned_to_that_one(world: World) -> None:
    await world.put("/tasks/1301", assignee="me")
    mine = await world.get("/users/me/user_task_list", workspace="1331")
    assert await world.gids(f"/user_task_lists/{mine['gid']}/tasks") == ["1301"]
    assert (await world.get("/users/me/user_task_list", workspace="1331"))["gid"] == mine["gid"]
    refused = await world.refused("GET", "/users/me/user_task_list")
    assert refused == (400, "workspace: Missing input")


async def test_membership_of_a_project_can_be_made_changed_and_ended(world: World) -> None:
    made = await world.post("/memberships", parent="8675309", member="1202", access_level="viewer")
    assert (made["member"]["gid"], made["access_level"]) == ("1202", "viewer")
    members = (await world.get("/projects/8675309"))["members"]
    assert [each["gid"] for each in members] == ["1201", "1202"]
    path = f"/memberships/{made['gid']}"
    assert (await world.put(path, access_level="admin"))["access_level"] == "admin"
    assert await world.gids("/memberships", parent="8675309", member="1202") == [made["gid"]]
    assert await world.gids("/projects/8675309/project_memberships", user="1202") == [made["gid"]]
    await world.api.delete(path)
    assert (await world.api.get(path)).status_code == 404
    assert len(await world.gids("/memberships", parent="8675309")) == 1
    assert await world.refused("GET", "/memberships", parent="7") == (
        404,
        "parent: Unknown object: 7",
    )


# Searching


async def test_typeahead_finds_by_name_what_begins_with_the_words_first(world: World) -> None:
    for name in ("The great login", "Login again"):
        await world.post("/tasks", workspace="1331", name=name)
    params = {"resource_type": "task", "query": "LOGIN", "count": 2}
    found = await world.get("/workspaces/1331/typeahead", **params)
    assert [each["name"] for each in found] == ["Login again", "The login forgets its visitors"]
    refused = await world.refused("GET", "/workspaces/1331/typeahead", resource_type="song")
    assert refused[0] == 400


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"text": "umlauts"}, {"1302"}),
        ({"assignee.any": "me,1202"}, {"1301"}),
        ({"assignee.any": "null"}, {"1302", "1303"}),
        ({"assignee.not": "me"}, {"1302", "1303"}),
        ({"completed": "true"}, {"1302"}),
        ({"due_on": "2026-12-24"}, {"1303"}),
        ({"due_on.before": "2026-12-24"}, set()),
        ({"due_on.after": "2026-12-01", "completed": "false"}, {"1303"}),
        ({"projects.any": "8675309", "sections.not": "1400"}, set()),
        ({"teams.any": "1350", "text": "export"}, {"1303"}),
        ({"is_subtask": "true"}, set()),
        ({"resource_subtype": "milestone"}, set()),
        ({"completed_on.after": "2026-01-01"}, {"1302"}),
    ],
)
async def test_tasks_are_searched_by_what_they_are(
    world: World, params: dict[str, str], found: set[str]
) -> None:
    await world.put("/tasks/1301", assignee="me")
    await world.put("/tasks/1302", completed=True)
    await world.put("/tasks/1303", due_on="2026-12-24")
    response = await world.api.get("/workspaces/1331/tasks/search", params=params)
    assert {each["gid"] for each in response.json()["data"]} == found
    assert "Asana-Simulator" not in response.headers


async def test_tasks_are_sorted_as_asked(world: World) -> None:
    path = "/workspaces/1331/tasks/search"
    await world.put("/tasks/1302", name="Changed last")
    assert (await world.gids(path))[0] == "1302"
    ascending = {"sort_by": "modified_at", "sort_ascending": "true"}
    assert (await world.gids(path, **ascending))[-1] == "1302"
    assert (await world.refused("GET", path, sort_by="name"))[0] == 400


async def test_free_workspace_cannot_be_searched(world: World) -> None:
    world.asana.faults.add("free-workspace")
    refused = await world.refused("GET", "/workspaces/1331/tasks/search")
    assert refused == (402, "Search is only available to premium users.")


# Duplicates


async def test_duplicate_of_a_task_has_what_is_included(world: World) -> None:
    await world.put("/tasks/1301", notes="Details", assignee="me", due_on="2026-12-24")
    await world.post("/tasks/1301/subtasks", name="Part")
    include = ["notes", "assignee", "dates", "subtasks", "projects"]
    job = await world.post("/tasks/1301/duplicate", name="Again", include=include)
    assert job["status"] == "succeeded"
    copy = await world.get(f"/tasks/{job['new_task']['gid']}")
    assert (copy["notes"], copy["assignee"]["gid"], copy["due_on"]) == (
        "Details",
        "1201",
        "2026-12-24",
    )
    assert [each["gid"] for each in copy["projects"]] == ["8675309"]
    assert len(await world.gids(f"/tasks/{copy['gid']}/subtasks")) == 1
    bare = await world.post("/tasks/1301/duplicate", name="Bare")
    assert (await world.get(f"/tasks/{bare['new_task']['gid']}"))["notes"] == ""
    assert (await world.get(f"/jobs/{job['gid']}"))["new_task"]["name"] == "Again"


async def test_duplicate_of_a_project_has_its_sections_and_tasks(world: World) -> None:
    section = await world.post("/projects/8675309/sections", name="Later")
    await act(world, f"/sections/{section['gid']}/addTask", task="1303")
    job = await world.post("/projects/8675309/duplicate", name="Again", include=["notes"])
    copy = job["new_project"]["gid"]
    sections = await world.get(f"/projects/{copy}/sections")
    assert [each["name"] for each in sections] == ["Untitled section", "Later"]
    assert len(await world.gids(f"/sections/{sections[1]['gid']}/tasks")) == 1
    assert len(await world.gids(f"/projects/{copy}/tasks")) == 3


# Goals


async def test_goal_is_made_changed_followed_and_deleted(world: World) -> None:
    goal = await world.post("/goals", name="Be quick", workspace="1331", team="1350")
    path = f"/goals/{goal['gid']}"
    assert (await world.put(path, status="green", notes="Soon"))["status"] == "green"
    followed = await world.post(f"{path}/addFollowers", followers=["1202"])
    assert [each["gid"] for each in followed["followers"]] == ["1201", "1202"]
    assert await world.gids("/goals", team="1350", is_workspace_level="true") == [goal["gid"]]
    assert await world.gids("/goals", workspace="1331", is_workspace_level="false") == []
    await world.api.delete(path)
    assert await world.gids("/goals", workspace="1331") == []
    assert await world.refused("POST", "/goals", {"name": "x"}) == (400, "workspace: Missing input")


# Order


async def test_tasks_and_sections_are_put_before_or_after_others(world: World) -> None:
    await act(world, "/sections/1400/addTask", task="1303", insert_before="1301")
    assert await world.gids("/projects/8675309/tasks") == ["1303", "1301", "1302"]
    await act(world, "/tasks/1303/addProject", project="8675309", insert_after="1301")
    assert await world.gids("/projects/8675309/tasks") == ["1301", "1303", "1302"]
    first = await world.post("/projects/8675309/sections", name="First", insert_before="1400")
    assert await world.gids("/projects/8675309/sections") == [first["gid"], "1400"]
    moved = {"section": first["gid"], "after_section": "1400"}
    await act(world, "/projects/8675309/sections/insert", **moved)
    assert await world.gids("/projects/8675309/sections") == ["1400", first["gid"]]
    both = {"task": "1303", "insert_before": "1301", "insert_after": "1302"}
    refused = await world.refused("POST", "/sections/1400/addTask", both)
    assert refused == (400, "You may only provide one of insert_before or insert_after!")


# Texts and dates


async def test_notes_as_html_and_plainly_are_one_text(world: World) -> None:
    given = "<body>Hello <strong>you</strong> &amp; me</body>"
    task = await world.put("/tasks/1301", html_notes=given)
    assert task["notes"] == "Hello you & me"
    assert (await world.get("/tasks/1301", opt_fields="html_notes"))["html_notes"] == given
    await world.put("/tasks/1301", notes="a < b")
    shown = await world.get("/tasks/1301", opt_fields="html_notes")
    assert shown["html_notes"] == "<body>a &lt; b</body>"


@pytest.mark.parametrize(
    "text",
    [
        "no root",
        "<p>x</p>",
        "<body><script/></body>",
        "<body>",
        '<!DOCTYPE a [<!ENTITY b "c">]><body/>',
    ],
)
async def test_html_that_asana_would_not_take_is_refused(world: World, text: str) -> None:
    status, message = await world.refused("PUT", "/tasks/1301", {"html_notes": text})
    assert (status, message.startswith("html_notes: ")) == (400, True)


async def test_time_that_a_task_is_due_at_brings_its_day_and_a_day_ends_the_time(
    world: World,
) -> None:
    due = await world.put("/tasks/1301", due_at="2026-12-24T18:00:00Z")
    assert (due["due_on"], due["due_at"]) == ("2026-12-24", "2026-12-24T18:00:00.000Z")
    due = await world.put("/tasks/1301", due_on="2026-12-25")
    assert (due["due_on"], due["due_at"]) == ("2026-12-25", None)
    both = {"due_on": "2026-12-25", "due_at": "2026-12-24T18:00:00Z"}
    refused = await world.refused("PUT", "/tasks/1301", both)
    assert refused == (400, "You may only provide one of due_on or due_at!")


async def test_approval_and_completion_keep_in_step(world: World) -> None:
    task = await world.post("/tasks", workspace="1331", resource_subtype="approval")
    path = f"/tasks/{task['gid']}"
    assert (await world.put(path, completed=True))["approval_status"] == "approved"
    assert (await world.put(path, approval_status="pending"))["completed"] is False
    assert (await world.put(path, approval_status="rejected"))["completed"] is True
