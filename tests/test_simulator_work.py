"""The work graph of the local Asana: what users do through the API, and the events of it."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from support import local_asana
from support.local_asana import World

from asana_webhooks.simulator.objects import seers
from asana_webhooks.simulator.seed import fill
from asana_webhooks.simulator.state import State
from asana_webhooks.simulator.stories import STORY

USER = {"gid": "1201", "resource_type": "user"}
BUGS = {"gid": "8675309", "resource_type": "project"}
UNTITLED = {"gid": "1400", "resource_type": "section"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running() as world:
        yield world


def short(event: dict[str, Any]) -> tuple[Any, ...]:
    """An event in short: action, resource, and its parent or its change."""
    resource = f"{event['resource']['resource_type']} {event['resource']['gid']}"
    if "change" in event:
        change = event["change"]
        values = [value["gid"] if value else None for name, value in change.items() if "_" in name]
        return (event["action"], resource, change["field"], change["action"], *values)
    parent = event["parent"]
    return (event["action"], resource, parent and f"{parent['resource_type']} {parent['gid']}")


async def told(world: World, webhook: str) -> list[list[tuple[Any, ...]]]:
    return [[short(event) for event in body] for body in await world.told(webhook)]


# What there is


async def test_it_starts_with_a_project_its_section_tasks_people_and_a_team(world: World) -> None:
    assert await world.get("/workspaces") == [
        {"gid": "1331", "resource_type": "workspace", "name": "example.com"}
    ]
    assert await world.gids("/projects", workspace="1331") == ["8675309"]
    assert await world.gids("/projects/8675309/sections") == ["1400"]
    assert await world.gids("/projects/8675309/tasks") == ["1301", "1302", "1303"]
    assert await world.gids("/users", workspace="1331") == ["1201", "1202"]
    assert await world.gids("/workspaces/1331/teams") == ["1350"]
    assert await world.gids("/teams/1350/users") == ["1201"]
    assert await world.gids("/users/me/teams", organization="1331") == ["1350"]
    assert await world.gids("/users/1202/teams", organization="1331") == []
    assert await world.gids("/teams/1350/projects") == ["8675309"]


@pytest.mark.parametrize("name", ["me", "1201", "robin@example.com"])
async def test_user_is_found_by_gid_by_address_and_as_me(world: World, name: str) -> None:
    user = await world.get(f"/users/{name}", opt_fields="name,email")
    assert user == {"gid": "1201", "name": "Robin Example", "email": "robin@example.com"}


async def test_record_of_a_task_is_whole_with_compact_links(world: World) -> None:
    task = await world.get("/tasks/1301")
    moment = "2026-01-05T09:00:00.000Z"
    expected = {
        "gid": "1301",
        "resource_type": "task",
        "resource_subtype": "default_task",
        "name": "The login forgets its visitors",
        "notes": "",
        "assignee": None,
        "completed": False,
        "completed_at": None,
        "completed_by": None,
        "created_at": moment,
        "due_at": None,
        "due_on": None,
        "followers": [],
        "memberships": [
            {
                "project": {**BUGS, "name": "Bugs"},
                "section": {**UNTITLED, "name": "Untitled section"},
            }
        ],
        "modified_at": moment,
        "parent": None,
        "projects": [{**BUGS, "name": "Bugs"}],
        "start_on": None,
        "tags": [],
        "workspace": {"gid": "1331", "resource_type": "workspace", "name": "example.com"},
    }
    assert {name: task[name] for name in expected} == expected


async def test_nested_fields_are_found_through_links(world: World) -> None:
    await world.put("/tasks/1301", assignee="me")
    fields = "assignee.email,memberships.section.name,projects.owner.workspaces.name,nothing.at.all"
    assert await world.get("/tasks/1301", opt_fields=fields) == {
        "gid": "1301",
        "assignee": {"gid": "1201", "email": "robin@example.com"},
        "memberships": [{"section": {"gid": "1400", "name": "Untitled section"}}],
        "projects": [
            {
                "gid": "8675309",
                "owner": {
                    "gid": "1201",
                    "workspaces": [{"gid": "1331", "name": "example.com"}],
                },
            }
        ],
    }


# Tasks


async def test_new_task_is_added_to_project_and_section_in_one_delivery(world: World) -> None:
    webhook = await world.watch("8675309")
    task = await world.post("/tasks", name="Slow search", projects=["8675309"], notes="Very.")
    assert task["name"] == "Slow search"
    gid = task["gid"]
    assert await told(world, webhook) == [
        [
            ("added", f"task {gid}", "project 8675309"),
            ("added", f"task {gid}", "section 1400"),
        ]
    ]
    assert await world.gids("/tasks", project="8675309") == ["1301", "1302", "1303", gid]


async def test_new_task_may_be_anywhere_in_the_workspace(world: World) -> None:
    task = await world.post("/tasks", workspace="1331", assignee="me", completed=True)
    assert task["completed_by"]["gid"] == "1201"
    assert re.fullmatch(r"\d{4}-.*Z", task["completed_at"])
    assert await world.gids("/tasks", assignee="me", workspace="1331") == [task["gid"]]
    assert await world.gids("/tasks", assignee="1202", workspace="1331") == []


async def test_completing_and_reopening_are_two_events_of_one_instant_each(world: World) -> None:
    webhook = await world.watch("1301")
    done = await world.put("/tasks/1301", completed=True)
    assert done["completed_by"]["gid"] == "1201"
    [[first, second]] = await world.told(webhook)
    assert first["created_at"] == second["created_at"] == done["completed_at"]
    assert first["change"] == {"field": "completed", "action": "changed"}
    assert second["change"] == {"field": "completed_at", "action": "changed"}
    again = await world.put("/tasks/1301", completed=True)
    assert again["completed_at"] == done["completed_at"]
    assert await told(world, webhook) == []
    reopened = await world.put("/tasks/1301", completed="false")
    assert (reopened["completed_at"], reopened["completed_by"]) == (None, None)
    assert [len(body) for body in await told(world, webhook)] == [2]


async def test_event_names_the_new_value_only_when_it_is_an_object(world: World) -> None:
    webhook = await world.watch("1301")
    await world.put("/tasks/1301", name="New name", assignee="sam@example.com")
    await world.put("/tasks/1301", assignee=None)
    first, second = await world.told(webhook)
    assert [event["change"] for event in first] == [
        {"field": "name", "action": "changed"},
        {
            "field": "assignee",
            "action": "changed",
            "new_value": {"gid": "1202", "resource_type": "user"},
        },
    ]
    assert [event["change"] for event in second] == [
        {"field": "assignee", "action": "changed", "new_value": None}
    ]
    assert first[0]["user"] == USER


async def test_changing_a_task_moves_the_time_of_its_modification(world: World) -> None:
    before = await world.get("/tasks/1301")
    after = await world.put("/tasks/1301", due_on="2026-12-24", due_at=None, notes="soon")
    assert after["modified_at"] > before["modified_at"]
    assert after["due_on"] == "2026-12-24"
    assert await world.gids("/tasks", project="8675309", modified_since=after["modified_at"]) == [
        "1301"
    ]


@pytest.mark.parametrize("name", ["modified_since", "completed_since"])
async def test_time_in_a_query_may_have_any_offset(world: World, name: str) -> None:
    done = await world.put("/tasks/1302", completed=True)
    at = datetime.fromisoformat(done["completed_at"])
    await world.put("/tasks/1301", completed=True)
    zone, hour = timezone(timedelta(hours=5)), timedelta(hours=1)

    async def listed(since: str) -> set[str]:
        tasks = await world.gids("/tasks", project="8675309", **{name: since})
        return {"1301", "1302"} & set(tasks)

    assert await listed(at.astimezone(zone).isoformat()) == {"1301", "1302"}
    assert await listed((at + hour).astimezone(zone).isoformat()) == set()
    assert await listed((at - hour).isoformat(timespec="seconds")) == {"1301", "1302"}
    assert await listed("2026-01-01") == {"1301", "1302"}
    refused = await world.refused("GET", "/tasks", project="8675309", **{name: "yesterday"})
    assert refused == (400, f"{name}: Time must be in ISO-8601 format, not: yesterday")


async def test_time_is_shown_in_utc_whatever_it_was_given_in(world: World) -> None:
    task = await world.put("/tasks/1301", due_at="2026-12-24T10:00:00+02:00")
    assert task["due_at"] == "2026-12-24T08:00:00.000Z"


async def test_completed_tasks_can_be_left_out_of_a_list(world: World) -> None:
    done = await world.put("/tasks/1302", completed=True)
    assert await world.gids("/tasks", project="8675309", completed_since="now") == ["1301", "1303"]
    since = done["completed_at"]
    assert len(await world.gids("/tasks", section="1400", completed_since=since)) == 3


async def test_deleted_task_is_gone_with_its_parts_until_it_is_undeleted(world: World) -> None:
    webhook = await world.watch("8675309")
    subtask = await world.post("/tasks/1301/subtasks", name="A part")
    story = await world.post("/tasks/1301/stories", text="Hello")
    await world.told(webhook)
    assert (await world.api.delete("/tasks/1301")).json() == {"data": {}}
    for path in ("tasks/1301", f"tasks/{subtask['gid']}", f"stories/{story['gid']}"):
        status, _ = await world.refused("GET", f"/{path}")
        assert status == 404
    assert "1301" not in await world.gids("/tasks", project="8675309")
    await world.asana.undelete("1301")
    await world.asana.undelete("1301")
    assert await world.gids("/tasks/1301/subtasks") == [subtask["gid"]]
    assert await told(world, webhook) == [
        [("deleted", "task 1301", None)],
        [("undeleted", "task 1301", None)],
    ]


async def test_deleting_from_python_is_deleting(world: World) -> None:
    webhook = await world.watch("1301")
    await world.asana.delete("1301")
    assert await told(world, webhook) == [[("deleted", "task 1301", None)]]
    with pytest.raises(ValueError, match="no object with gid '1301'"):
        await world.asana.delete("1301")
    with pytest.raises(ValueError, match="never an object with gid '1'"):
        await world.asana.undelete("1")
    shown = await world.api.get(f"/webhooks/{webhook}")
    assert shown.json()["data"]["resource"]["name"] == "The login forgets its visitors"


async def test_webhook_on_what_was_deleted_is_refused(world: World) -> None:
    await world.asana.delete("1301")
    data = {"resource": "1301", "target": world.target}
    refused = await world.refused("POST", "/webhooks", data)
    assert refused == (404, "resource: Unknown object: 1301")


# Bubbling


async def test_subtask_and_its_comment_reach_task_and_project_but_not_higher(world: World) -> None:
    projects = {"resource_type": "project"}
    task, project = await world.watch("1301"), await world.watch("8675309")
    team, workspace = await world.watch("1350", projects), await world.watch("1331", projects)
    subtask = (await world.post("/tasks", parent="1301", name="A part"))["gid"]
    story = (await world.post(f"/tasks/{subtask}/stories", text="Hi", is_pinned=True))["gid"]
    seen = [
        [("added", f"task {subtask}", "task 1301")],
        [("added", f"story {story}", f"task {subtask}")],
    ]
    assert await told(world, task) == seen
    assert await told(world, project) == seen
    assert await told(world, team) == await told(world, workspace) == []


async def test_projects_reach_team_and_workspace(world: World) -> None:
    added = {"resource_type": "project"}
    team, workspace = await world.watch("1350", added), await world.watch("1331", added)
    gid = (await world.post("/teams/1350/projects", name="Website"))["gid"]
    await world.put(f"/projects/{gid}", name="The website", archived=True)
    await world.api.delete(f"/projects/{gid}")
    seen = [
        [("added", f"project {gid}", "workspace 1331"), ("added", f"project {gid}", "team 1350")],
        [
            ("changed", f"project {gid}", "name", "changed"),
            ("changed", f"project {gid}", "archived", "changed"),
        ],
        [("deleted", f"project {gid}", None)],
    ]
    assert await told(world, team) == await told(world, workspace) == seen


async def test_memberships_reach_what_one_is_a_member_of(world: World) -> None:
    team = await world.watch("1350", {"resource_type": "team_membership"})
    workspace = await world.watch("1331", {"resource_type": "workspace_membership"})
    user = (await world.post("/workspaces/1331/addUser", user="kim@example.com"))["gid"]
    await world.post("/teams/1350/addUser", user=user)
    await world.post("/teams/1350/addUser", user="kim@example.com")
    assert await world.gids("/users", team="1350") == ["1201", user]
    assert await world.post("/teams/1350/removeUser", user=user) == {}
    await world.post("/teams/1350/removeUser", user=user)
    [[joined], [left]] = await told(world, team)
    assert (joined[0], left[0]) == ("added", "removed")
    assert joined[1:] == left[1:]
    assert joined[2] == "team 1350"
    [[[action, resource, parent]]] = await told(world, workspace)
    assert resource.startswith("workspace_membership ")
    assert (action, parent) == ("added", "workspace 1331")


async def test_event_is_delivered_once_to_a_webhook_that_sees_it_in_two_ways(world: World) -> None:
    webhook = await world.watch("8675309")
    subtask = (await world.post("/tasks/1301/subtasks", name="Part"))["gid"]
    await world.post(f"/tasks/{subtask}/addProject", project="8675309")
    await world.told(webhook)
    await world.put(f"/tasks/{subtask}", name="Both")
    assert await told(world, webhook) == [[("changed", f"task {subtask}", "name", "changed")]]


def test_tasks_and_their_parts_are_not_seen_above_their_projects() -> None:
    state = State()
    fill(state)
    things = state.things
    task, section, project = things["1301"], things["1400"], things["8675309"]
    story = state.new(STORY, {}, gid="1", owner=task)
    assert seers(task) == {"1301", "8675309"}
    assert seers(task, section) == {"1301", "1400", "8675309"}
    assert seers(story, task) == {"1", "1301", "8675309"}
    assert seers(project) == {"8675309", "1350", "1331"}


# Where tasks are


async def test_task_becomes_a_subtask_of_another_and_of_none(world: World) -> None:
    webhook, other = await world.watch("1302"), await world.watch("1303")
    task = await world.post("/tasks/1301/setParent", parent="1302")
    assert task["parent"]["gid"] == "1302"
    await world.post("/tasks/1301/setParent", parent="1302")
    await world.post("/tasks/1301/setParent", parent="1303")
    assert (await world.post("/tasks/1301/setParent", parent=None))["parent"] is None
    assert await told(world, webhook) == [
        [("added", "task 1301", "task 1302")],
        [("removed", "task 1301", "task 1302")],
    ]
    assert await told(world, other) == [
        [("added", "task 1301", "task 1303")],
        [("removed", "task 1301", "task 1303")],
    ]


@pytest.mark.parametrize("parent", ["1301", "1302"])
async def test_task_cannot_be_below_itself(world: World, parent: str) -> None:
    await world.post("/tasks/1302/setParent", parent="1301")
    refused = await world.refused("POST", "/tasks/1301/setParent", {"parent": parent})
    assert refused == (400, "parent: A task cannot be below itself")


async def test_task_is_added_to_and_removed_from_a_second_project(world: World) -> None:
    other = (await world.post("/projects", name="Other", workspace="1331"))["gid"]
    [section] = await world.gids(f"/projects/{other}/sections")
    webhook, first = await world.watch(other), await world.watch("8675309")
    assert await world.post("/tasks/1301/addProject", project=other) == {}
    assert await world.post("/tasks/1301/addProject", project=other) == {}
    assert await world.gids("/tasks/1301/projects") == ["8675309", other]
    assert await world.post("/tasks/1301/removeProject", project=other) == {}
    assert await world.post("/tasks/1301/removeProject", project=other) == {}
    seen = [
        [(action, "task 1301", f"project {other}"), (action, "task 1301", f"section {section}")]
        for action in ("added", "removed")
    ]
    assert await told(world, webhook) == seen
    assert await told(world, first) == seen
    assert await world.gids(f"/sections/{section}/tasks") == []


async def test_moving_to_another_section_removes_and_adds(world: World) -> None:
    webhook = await world.watch("8675309")
    section = (await world.post("/projects/8675309/sections", name="Doing"))["gid"]
    assert await world.post(f"/sections/{section}/addTask", task="1301") == {}
    assert await world.gids("/tasks", section=section) == ["1301"]
    assert await told(world, webhook) == [
        [("added", f"section {section}", "project 8675309")],
        [
            ("removed", "task 1301", "section 1400"),
            ("added", "task 1301", f"section {section}"),
        ],
    ]
    await world.post("/tasks/1301/addProject", project="8675309", section=section)
    assert await told(world, webhook) == []


async def test_task_can_be_added_to_a_section_of_a_project_that_it_is_not_in(world: World) -> None:
    other = (await world.post("/workspaces/1331/projects", name="Other"))["gid"]
    section = (await world.post(f"/projects/{other}/sections", name="Doing"))["gid"]
    await world.post("/tasks/1301/addProject", project=other, section=section)
    assert await world.gids(f"/sections/{section}/tasks") == ["1301"]
    refused = await world.refused(
        "POST", "/tasks/1302/addProject", {"project": other, "section": "1400"}
    )
    assert refused == (400, "section: The section is not in the project")


async def test_section_can_be_deleted_when_it_is_empty_and_not_the_last(world: World) -> None:
    message = "section: Only an empty section, and not the last, can be deleted"
    assert await world.refused("DELETE", "/sections/1400") == (400, message)
    section = (await world.post("/projects/8675309/sections", name="Doing"))["gid"]
    assert await world.refused("DELETE", "/sections/1400") == (400, message)
    await world.put(f"/sections/{section}", name="Done")
    assert (await world.api.delete(f"/sections/{section}")).json() == {"data": {}}
    assert await world.gids("/projects/8675309/sections") == ["1400"]


async def test_deleted_project_is_no_longer_shown_on_its_tasks(world: World) -> None:
    await world.api.delete("/projects/8675309")
    task = await world.get("/tasks/1301")
    assert (task["projects"], task["memberships"]) == ([], [])
    assert await world.gids("/tasks/1301/projects") == []
    await world.asana.undelete("8675309")
    assert await world.gids("/tasks/1301/projects") == ["8675309"]


# Tags, followers, comments, teams


async def test_tag_is_a_change_of_the_task_and_an_addition_to_the_tag(world: World) -> None:
    tag = (await world.post("/tags", name="urgent", workspace="1331"))["gid"]
    webhook, on_tag = await world.watch("1301"), await world.watch(tag)
    for action in ("addTag", "addTag", "removeTag", "removeTag"):
        assert await world.post(f"/tasks/1301/{action}", tag=tag) == {}
        tagged = action == "addTag"
        assert await world.gids("/tasks/1301/tags") == ([tag] if tagged else [])
        assert await world.gids(f"/tags/{tag}/tasks") == (["1301"] if tagged else [])
        assert await world.gids("/tasks", tag=tag) == (["1301"] if tagged else [])
    pairs = [
        [("changed", "task 1301", "tags", action, tag), (action, "task 1301", f"tag {tag}")]
        for action in ("added", "removed")
    ]
    assert await told(world, webhook) == pairs
    assert await told(world, on_tag) == [[second] for _, second in pairs]


async def test_tags_can_be_set_with_a_new_task_and_listed(world: World) -> None:
    tag = (await world.post("/workspaces/1331/tags", name="urgent", color="dark-red"))["gid"]
    task = await world.post("/tasks", workspace="1331", tags=[tag, tag])
    assert [each["gid"] for each in task["tags"]] == [tag]
    assert await world.gids("/tags", workspace="1331") == [tag]
    assert await world.gids("/workspaces/1331/tags") == [tag]
    await world.api.delete(f"/tags/{tag}")
    assert (await world.get(f"/tasks/{task['gid']}"))["tags"] == []


async def test_new_task_goes_into_the_section_that_is_named(world: World) -> None:
    webhook = await world.watch("8675309")
    section = (await world.post("/projects/8675309/sections", name="Doing"))["gid"]
    await world.told(webhook)
    place = {"project": "8675309", "section": section}
    task = await world.post("/tasks", projects=["8675309"], memberships=[place])
    assert [each["section"]["gid"] for each in task["memberships"]] == [section]
    assert await told(world, webhook) == [
        [
            ("added", f"task {task['gid']}", "project 8675309"),
            ("added", f"task {task['gid']}", f"section {section}"),
        ]
    ]
    other = await world.post("/tasks", memberships=[{"project": "8675309"}])
    assert [each["section"]["gid"] for each in other["memberships"]] == ["1400"]


async def test_new_task_may_have_followers(world: World) -> None:
    task = await world.post("/tasks", workspace="1331", followers=["1202", "me", "1201"])
    assert [each["gid"] for each in task["followers"]] == ["1202", "1201"]


async def test_followers_are_added_and_removed_one_event_each(world: World) -> None:
    webhook = await world.watch("1301")
    task = await world.post("/tasks/1301/addFollowers", followers=["me", "1202"])
    assert [each["gid"] for each in task["followers"]] == ["1201", "1202"]
    await world.post("/tasks/1301/removeFollowers", followers="1202,1201")
    assert await told(world, webhook) == [
        [("changed", "task 1301", "followers", "added", "1201")],
        [("changed", "task 1301", "followers", "added", "1202")],
        [("changed", "task 1301", "followers", "removed", "1202")],
        [("changed", "task 1301", "followers", "removed", "1201")],
    ]


async def test_comment_can_be_shown_changed_and_deleted(world: World) -> None:
    webhook = await world.watch("1301")
    story = await world.post("/tasks/1301/stories", text="It is the cookie")
    gid = story["gid"]
    assert story["type"] == "comment"
    assert story["target"] == {
        "gid": "1301",
        "resource_type": "task",
        "name": "The login forgets its visitors",
        "resource_subtype": "default_task",
    }
    [compact] = await world.get("/tasks/1301/stories")
    assert compact == {
        "gid": gid,
        "resource_type": "story",
        "created_at": story["created_at"],
        "created_by": {**USER, "name": "Robin Example"},
        "resource_subtype": "comment_added",
        "text": "It is the cookie",
    }
    assert (await world.put(f"/stories/{gid}", text="It was the cookie"))["text"].startswith(
        "It was"
    )
    await world.api.delete(f"/stories/{gid}")
    assert await world.get("/tasks/1301/stories") == []
    assert await told(world, webhook) == [
        [("added", f"story {gid}", "task 1301")],
        [("changed", f"story {gid}", "text", "changed")],
        [("deleted", f"story {gid}", None)],
    ]


async def test_team_is_created_with_its_first_member(world: World) -> None:
    gid = (await world.post("/teams", name="Design", organization="1331"))["gid"]
    assert await world.gids(f"/teams/{gid}/users") == ["1201"]
    assert (await world.put(f"/teams/{gid}", description="They draw"))["name"] == "Design"
    project = await world.post("/projects", name="Logo", team=gid)
    assert project["team"]["name"] == "Design"
    assert await world.gids("/projects", team=gid) == [project["gid"]]
    assert await world.gids("/projects", archived="true") == []
    assert await world.gids("/projects", archived="false") == ["8675309", project["gid"]]
    await world.put(f"/projects/{project['gid']}", archived=True)
    for spelt in ("true", "True"):  # as Asana's client for Python has it
        assert await world.gids("/projects", archived=spelt) == [project["gid"]]


async def test_people_and_workspace_can_be_renamed(world: World) -> None:
    assert (await world.put("/users/me", name="Robin"))["name"] == "Robin"
    assert (await world.put("/workspaces/1331", name="example.org"))["name"] == "example.org"


# Mistakes

ONE_OF = "Must specify exactly one of project, tag, section, or assignee + workspace"


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "message"),
    [
        ("GET", "/tasks", None, 400, ONE_OF),
        ("GET", "/tasks?project=8675309&section=1400", None, 400, ONE_OF),
        ("GET", "/tasks?assignee=me", None, 400, ONE_OF),
        ("GET", "/projects?archived=1", None, 400, "archived: Value is not a boolean"),
        ("GET", "/tasks?project=1", None, 404, "project: Unknown object: 1"),
        ("GET", "/users/1", None, 404, "user: Unknown object: 1"),
        ("GET", "/tasks/8675309", None, 404, "task: Unknown object: 8675309"),
        ("POST", "/tasks", {}, 400, "You should specify one of workspace, parent, projects"),
        ("POST", "/tasks", {"workspace": "1"}, 400, "workspace: Unknown object: 1"),
        ("POST", "/tasks", {"parent": 1301}, 400, "parent: Unknown object: 1301"),
        ("POST", "/tasks", {"projects": {"a": 1}}, 400, "projects: Value is not an array"),
        ("POST", "/tasks", {"projects": ["1"]}, 400, "projects: [0]: Unknown object: 1"),
        (
            *("POST", "/tasks", {"memberships": ["8675309"]}, 400),
            "memberships: Value is not an array of objects",
        ),
        (
            *("POST", "/tasks", {"memberships": {"project": "8675309"}}, 400),
            "memberships: Value is not an array of objects",
        ),
        ("POST", "/tasks", {"memberships": [{"section": "1400"}]}, 400, "project: Missing input"),
        ("PUT", "/tasks/1301", {"name": None}, 400, "name: Value is not a string"),
        ("PUT", "/tasks/1301", {"completed": 1}, 400, "completed: Value is not a boolean"),
        ("PUT", "/tasks/1301", {"completed": "1"}, 400, "completed: Value is not a boolean"),
        ("PUT", "/tasks/1301", {"assignee": "x"}, 400, "assignee: Unknown object: x"),
        (
            *("PUT", "/tasks/1301", {"due_on": "tomorrow"}, 400),
            "due_on: Date must be in ISO-8601 (yyyy-mm-dd) format, not: tomorrow",
        ),
        (
            *("POST", "/tasks/1301/subtasks", {"resource_subtype": "song"}, 400),
            "resource_subtype: Value is none of approval, default_task, milestone",
        ),
        ("POST", "/tasks/1301/stories", {"text": ""}, 400, "text: Missing input"),
        ("POST", "/tasks/1301/addTag", {"tag": "1"}, 400, "tag: Unknown object: 1"),
        ("POST", "/tasks/1301/addProject", {}, 400, "project: Missing input"),
        ("POST", "/tasks/1301/setParent", {}, 400, "parent: Missing input"),
        ("POST", "/tasks/1301/addFollowers", {}, 400, "followers: Missing input"),
        (
            *("POST", "/tasks/1301/addFollowers", {"followers": 7}, 400),
            "followers: Value is not an array",
        ),
        ("POST", "/tasks/1301/subtasks", {"followers": ["x"]}, 400, "followers: Unknown object: x"),
        (
            *("PUT", "/tasks/1301", {"due_at": "noon"}, 400),
            "due_at: Time must be in ISO-8601 format, not: noon",
        ),
        (
            *("PUT", "/tasks/1301", {"due_at": "0001-01-01T00:00:00+14:00"}, 400),
            "due_at: Time must be in ISO-8601 format, not: 0001-01-01T00:00:00+14:00",
        ),
        ("POST", "/projects", {"name": "x"}, 400, "workspace: Missing input"),
        ("POST", "/projects/8675309/sections", {}, 400, "name: Missing input"),
        ("POST", "/teams", {"name": "x"}, 400, "organization: Missing input"),
        ("POST", "/teams/1350/addUser", {"user": "1"}, 400, "user: Unknown object: 1"),
    ],
)
async def test_call_with_a_mistake_is_refused(
    world: World, method: str, path: str, data: Any, status: int, message: str
) -> None:
    assert await world.refused(method, path, data) == (status, message)


async def test_milestone_says_so_in_its_record_and_its_events(world: World) -> None:
    webhook = await world.watch("8675309", {"resource_subtype": "milestone"})
    await world.post("/tasks", projects=["8675309"], name="Usual")
    data = {"projects": "8675309", "name": "Launch", "resource_subtype": "milestone"}
    response = await world.api.post("/tasks", data=data)
    task = response.json()["data"]
    assert task["resource_subtype"] == "milestone"
    [[first, _]] = await world.told(webhook)
    assert first["resource"] == {
        "gid": task["gid"],
        "resource_type": "task",
        "resource_subtype": "milestone",
    }
    changed = await world.put(f"/tasks/{task['gid']}", resource_subtype="approval")
    assert (changed["resource_subtype"], changed["approval_status"]) == ("approval", "pending")
