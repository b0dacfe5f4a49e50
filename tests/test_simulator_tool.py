"""The local Asana as a tool of tests: seeds, resets, snapshots, faults of one call, frozen time."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World

from asana_webhooks.simulator import AsanaSimulator

WORLD: dict[str, Any] = {
    "users": [{"name": "Kim", "email": "kim@x.test", "token": "kims-token"}],
    "teams": [{"name": "Design", "members": ["Kim"]}],
    "tags": [{"name": "Urgent", "color": "dark-red"}],
    "projects": [
        {
            "name": "Launch",
            "team": "Design",
            "private": True,
            "members": ["Kim"],
            "sections": ["To do", "Done"],
            "fields": {"notes": "In spring"},
            "tasks": [
                {
                    "name": "Print",
                    "section": "Done",
                    "assignee": "Kim",
                    "tags": ["Urgent"],
                    "fields": {"due_on": "2026-12-24", "completed": True},
                    "subtasks": [{"name": "Paper"}],
                    "comments": ["Which paper?"],
                },
                {"name": "Send"},
            ],
        }
    ],
    "portfolios": [{"name": "All", "projects": ["Launch", "8675309"]}],
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running(retry_delay=0.01) as world:
        yield world


async def test_seed_is_all_that_it_describes_and_no_event(world: World) -> None:
    webhook = await world.watch("1331", {"resource_type": "project"})
    gids = await world.asana.seed(WORLD)
    assert await world.told(webhook) == []
    task = await world.get(f"/tasks/{gids['Print']}")
    assert (task["assignee"]["name"], task["due_on"], task["completed"]) == (
        "Kim",
        "2026-12-24",
        True,
    )
    assert [each["name"] for each in task["tags"]] == ["Urgent"]
    assert [each["section"]["name"] for each in task["memberships"]] == ["Done"]
    assert await world.gids(f"/tasks/{gids['Print']}/subtasks") == [gids["Paper"]]
    [story] = await world.get(f"/tasks/{gids['Print']}/stories")
    assert story["text"] == "Which paper?"
    sections = await world.get(f"/projects/{gids['Launch']}/sections")
    assert [each["name"] for each in sections] == ["To do", "Done"]
    assert await world.gids(f"/portfolios/{gids['All']}/items") == [gids["Launch"], "8675309"]
    async with local_asana.client(world.asana, "kims-token") as kim:
        assert (await kim.get("/users/me")).json()["data"]["gid"] == gids["Kim"]
        assert (await kim.get(f"/projects/{gids['Launch']}")).status_code == 200


async def test_seed_may_be_a_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    path.write_text(json.dumps(WORLD))
    gids = await world.asana.seed(path)
    assert (await world.get(f"/projects/{gids['Launch']}"))["notes"] == "In spring"


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"songs": []}, "unknown field `songs`"),
        ({"projects": [{}]}, "missing required field `name`"),
        ({"projects": [{"name": "x", "tasks": [{"name": "y", "section": "Z"}]}]}, "has no section"),
        ({"projects": [{"name": "x", "fields": {"song": 1}}]}, "a project has no field 'song'"),
        ({"projects": [{"name": "x", "fields": {"color": "pale"}}]}, "color: Value is none of"),
        (
            {"projects": [{"name": "x", "members": ["Nobody"]}]},
            "there is no user with gid 'Nobody'",
        ),
    ],
)
async def test_seed_that_cannot_be_is_refused(
    world: World, described: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        await world.asana.seed(described)


async def test_reset_makes_all_as_it_was(world: World) -> None:
    before = world.asana.snapshot()
    first = await world.asana.create_task("New", project="8675309")
    webhook = await world.watch("8675309")
    world.asana.faults.add("dropped")
    world.asana.faults.once("GET", "/users/me")
    await world.asana.complete_task("1301")
    await world.asana.reset()
    assert world.asana.snapshot() == before
    asana = world.asana
    left = [asana.webhooks, asana.calls(), asana.deliveries, asana.dropped, asana.faults]
    assert not any(left)
    assert (await world.api.get(f"/webhooks/{webhook}")).status_code == 404
    assert (await world.api.get("/users/me")).status_code == 200
    assert await world.asana.create_task("Again", project="8675309") == first


async def test_webhook_works_after_a_reset(world: World) -> None:
    await world.watch("8675309")
    await world.asana.reset()
    webhook = await world.watch("8675309")
    await world.asana.create_task("Told", project="8675309")
    assert len(await world.told(webhook)) == 1


async def test_snapshots_differ_in_what_was_changed(world: World) -> None:
    before = world.asana.snapshot()
    await world.put("/tasks/1301", name="Changed")
    await world.asana.delete("1302")
    after = world.asana.snapshot()
    assert before.keys() - after.keys() == {"1302"}
    changed = {gid for gid in after if before[gid] != after[gid]}
    assert changed == {"1301"}
    assert after["1301"]["projects"] == [{"gid": "8675309", "resource_type": "project"}]


async def test_one_call_fails_and_the_next_does_not(world: World) -> None:
    world.asana.faults.once("GET", "/tasks/*", status=429)
    world.asana.faults.once("PUT", "/tasks/1301", status=500)
    assert (await world.api.get("/projects/8675309")).status_code == 200
    limited = await world.api.get("/tasks/1301")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "1")
    assert (await world.api.get("/tasks/1301")).status_code == 200
    failed = await world.api.put("/tasks/1301", json={"data": {"name": "x"}})
    assert "phrase" in failed.json()["errors"][0]
    assert (await world.get("/tasks/1301"))["name"] != "x"


async def test_connection_of_one_call_is_cut(world: World) -> None:
    world.asana.faults.once("GET", "/tasks/1301", status=None)
    with pytest.raises(httpx.TransportError):
        await world.api.get("/tasks/1301")
    assert (await world.api.get("/tasks/1301")).status_code == 200


@pytest.mark.parametrize("status", [200, 399, 600])
async def test_fault_of_a_call_is_an_error(world: World, status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        world.asana.faults.once("GET", "/tasks/1301", status=status)


async def test_fault_of_a_path_that_no_call_has_is_refused(world: World) -> None:
    with pytest.raises(
        ValueError, match="one below the API, such as '/tasks/\\*', not 'tasks/1301'"
    ):
        world.asana.faults.once("GET", "tasks/1301")


async def test_frozen_time_passes_only_when_it_is_driven() -> None:
    frozen_at = datetime(2026, 7, 1, 12, tzinfo=UTC)
    async with local_asana.running(frozen_at=frozen_at, gather_for=60) as world:
        assert world.asana.now == frozen_at
        webhook = await world.watch("8675309")
        task = await world.asana.create_task("New", project="8675309")
        record = await world.get(f"/tasks/{task}")
        assert record["created_at"].startswith("2026-07-01T12:00:00.")
        await world.asana.advance(hours=9)
        bodies = await world.told(webhook)
        assert [len(body) for body in bodies] == [2, 0]
        assert world.asana.now == frozen_at + timedelta(hours=9)


def test_frozen_time_knows_its_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        AsanaSimulator(frozen_at=datetime(2026, 7, 1))  # noqa: DTZ001 - that is the mistake
