"""Users of the local Asana: whose call it is, what each may see, and what comes of a user's end."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World

from asana_webhooks.simulator import Call

Api = httpx.AsyncClient


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running() as world:
        yield world


@pytest.fixture
async def kim(world: World) -> AsyncIterator[Api]:
    """Yield a client of Kim, a user with a token of her own."""
    await world.asana.add_user("Kim Example", token="kims-token")
    async with local_asana.client(world.asana, "kims-token") as api:
        yield api


async def gids(api: Api, path: str, **params: Any) -> list[str]:
    response = await api.get(path, params=params)
    assert response.status_code == 200, response.text
    return [each["gid"] for each in response.json()["data"]]


async def me(api: Api) -> str:
    gid: str = (await api.get("/users/me")).json()["data"]["gid"]
    return gid


def of_project(world: World, gid: str) -> dict[str, Any]:
    return {"data": {"resource": gid, "target": f"{world.target}/{gid}"}}


async def test_call_is_of_the_user_whose_token_it_has(world: World, kim: Api) -> None:
    shown = (await kim.get("/users/me")).json()["data"]
    assert (shown["name"], shown["email"]) == ("Kim Example", "kim@example.com")
    assert await me(world.api) == world.asana.user
    task = (await kim.post("/tasks", json={"data": {"workspace": "1331", "assignee": "me"}})).json()
    assert task["data"]["assignee"]["gid"] == shown["gid"]


async def test_event_names_the_user_who_caused_it(world: World, kim: Api) -> None:
    webhook = await world.watch("8675309")
    await kim.put("/tasks/1301", json={"data": {"name": "By Kim"}})
    await world.put("/tasks/1301", name="By Robin")
    users = [event["user"]["gid"] for [event] in await world.told(webhook)]
    assert users == [await me(kim), world.asana.user]


async def test_python_acts_for_the_user_it_names(world: World, kim: Api) -> None:
    user = await me(kim)
    webhook = await world.watch("8675309")
    task = await world.asana.create_task("One", project="8675309", user=user)
    await world.asana.complete_task(task, user=user)
    await world.asana.delete(task, user=user)
    await world.asana.undelete(task)
    events = [event for body in await world.told(webhook) for event in body]
    assert [event["user"]["gid"] for event in events] == [user] * 5 + [world.asana.user]
    with pytest.raises(ValueError, match="no user with gid '7'"):
        await world.asana.create_task("Two", project="8675309", user="7")


async def test_webhooks_are_listed_for_the_token_that_made_them(world: World, kim: Api) -> None:
    of_robin = await world.watch("8675309")
    created = await kim.post("/webhooks", json=of_project(world, "8675309"))
    of_kim = created.json()["data"]["gid"]
    assert await gids(kim, "/webhooks", workspace="1331") == [of_kim]
    assert await gids(world.api, "/webhooks", workspace="1331") == [of_robin]
    assert (await kim.get(f"/webhooks/{of_robin}")).status_code == 404


async def test_two_users_of_one_app_see_their_own_webhooks_only(world: World) -> None:
    tokens, kim = world.asana.oauth, await world.asana.add_user("Kim Example")
    apis = []
    for user in (world.asana.user, kim):
        tokens.user = user
        code = tokens.authorize("app", "http://127.0.0.1/", "default", None)
        token = tokens.redeem("app", code, "http://127.0.0.1/", "").access_token
        apis.append(local_asana.client(world.asana, token))
    async with apis[0] as robins, apis[1] as kims:
        assert [await me(robins), await me(kims)] == [world.asana.user, kim]
        same = of_project(world, "8675309")
        answers = [
            await robins.post("/webhooks", json=same),
            await kims.post("/webhooks", json=same),
        ]
        for api, answer in zip((robins, kims), answers, strict=True):
            assert await gids(api, "/webhooks", workspace="1331") == [answer.json()["data"]["gid"]]


async def test_consent_is_of_a_user_who_is_there(world: World) -> None:
    world.asana.oauth.user = "7"
    with pytest.raises(ValueError, match="no user with gid '7'"):
        world.asana.oauth.authorize("app", "http://127.0.0.1/", "default", None)


@pytest.mark.parametrize("token", ["", "kims-token"])
async def test_token_of_two_users_or_without_a_letter_is_refused(
    world: World, kim: Api, token: str
) -> None:
    with pytest.raises(ValueError, match="the token of a user"):
        await world.asana.add_user("Another", token=token)


async def test_users_have_different_addresses(world: World) -> None:
    robin = await world.asana.add_user("Robin Hood")
    assert (await world.get(f"/users/{robin}"))["email"] == f"robin.{robin}@example.com"
    with pytest.raises(ValueError, match=r"robin@example\.com"):
        await world.asana.add_user("Robin Cook", email="robin@example.com")


# What a user may see


async def test_private_project_is_its_members_alone(world: World, kim: Api) -> None:
    secret = await world.asana.create_project("Secret", members=[])
    task = await world.asana.create_task("Hidden", project=secret)
    comment = await world.asana.add_comment(task, "Hidden too")
    sections = await world.gids(f"/projects/{secret}/sections")
    for path in (f"/projects/{secret}", f"/tasks/{task}", f"/stories/{comment}"):
        response = await kim.get(path)
        assert response.status_code == 403
        assert "You do not have access" in response.json()["errors"][0]["message"]
    assert (await kim.get("/tasks", params={"project": secret})).status_code == 403
    assert (await kim.get("/events", params={"resource": secret})).status_code == 403
    assert (await kim.post("/webhooks", json=of_project(world, secret))).status_code == 403
    assert (await kim.put(f"/sections/{sections[0]}", json={"data": {}})).status_code == 403
    added = {"data": {"project": secret}}
    assert (await kim.post("/tasks/1301/addProject", json=added)).status_code == 403
    assert await gids(kim, "/projects", workspace="1331") == ["8675309"]
    assert await world.gids("/projects", workspace="1331") == ["8675309", secret]


async def test_member_of_a_private_project_sees_it_and_one_who_leaves_does_not(
    world: World, kim: Api
) -> None:
    user = await me(kim)
    secret = await world.asana.create_project("Secret", members=[user])
    assert await gids(kim, "/projects", workspace="1331") == ["8675309", secret]
    gone = await world.post(f"/projects/{secret}/removeMembers", members=[user])
    assert [each["gid"] for each in gone["members"]] == [world.asana.user]
    assert (await kim.get(f"/projects/{secret}")).status_code == 403
    await world.post(f"/projects/{secret}/addMembers", members=user)
    assert (await kim.get(f"/projects/{secret}")).status_code == 200
    refused = await world.refused("POST", f"/projects/{secret}/addMembers", {"members": []})
    assert refused == (400, "members: Missing input")


async def test_webhook_of_a_user_without_access_gets_nothing_more(world: World, kim: Api) -> None:
    user = await me(kim)
    secret = await world.asana.create_project("Secret", members=[user])
    created = await kim.post("/webhooks", json=of_project(world, secret))
    webhook = created.json()["data"]["gid"]
    await world.asana.settled()
    await world.asana.create_task("Seen", project=secret)
    assert len(await world.told(webhook)) == 2  # with the heartbeat
    await world.post(f"/projects/{secret}/removeMembers", members=[user])
    await world.asana.create_task("Unseen", project=secret)
    assert await world.told(webhook) == []


async def test_assignee_and_followers_see_a_task_of_a_private_project(
    world: World, kim: Api
) -> None:
    user = await me(kim)
    secret = await world.asana.create_project("Secret", members=[])
    assigned = await world.post("/tasks", projects=[secret], assignee=user)
    followed = await world.post("/tasks", projects=[secret], followers=[user])
    hidden = await world.post("/tasks", projects=[secret])
    statuses = [
        (await kim.get(f"/tasks/{task['gid']}")).status_code
        for task in (assigned, followed, hidden)
    ]
    assert statuses == [200, 200, 403]


async def test_project_that_is_private_to_a_team_is_seen_by_the_team(
    world: World, kim: Api
) -> None:
    data = {"name": "Plans", "team": "1350", "privacy_setting": "private_to_team"}
    project = await world.post("/projects", **data)
    assert (await kim.get(f"/projects/{project['gid']}")).status_code == 403
    await world.post("/teams/1350/addUser", user=await me(kim))
    assert (await kim.get(f"/projects/{project['gid']}")).status_code == 200
    refused = await world.refused("POST", "/projects", data | {"privacy_setting": "mine"})
    assert refused[1].startswith("privacy_setting: Value is none of")


# Who is no more


async def test_user_who_leaves_the_workspace_leaves_no_webhook(world: World, kim: Api) -> None:
    await kim.post("/webhooks", json=of_project(world, "8675309"))
    of_robin = await world.watch("8675309")
    await world.api.post("/workspaces/1331/removeUser", json={"data": {"user": await me(kim)}})
    assert list(world.asana.webhooks) == [of_robin]


async def test_token_of_a_removed_user_is_refused(world: World, kim: Api) -> None:
    user = await me(kim)
    await world.api.post("/teams/1350/addUser", json={"data": {"user": user}})
    webhook = await world.watch("1350", {"resource_type": "team_membership", "action": "removed"})
    await world.asana.remove_user(user)
    assert (await kim.get("/users/me")).status_code == 401
    assert user not in await world.gids("/users", workspace="1331")
    [[event]] = await world.told(webhook)
    assert event["resource"]["resource_type"] == "team_membership"


# Projects of a place


async def test_projects_are_listed_by_workspace_team_and_portfolio_in_pages(world: World) -> None:
    projects = [await world.asana.create_project(f"P{n}", team="1350") for n in range(4)]
    await world.put(f"/projects/{projects[0]}", archived=True)
    portfolio = await world.asana.create_portfolio("All", projects=projects)
    for path, params in (
        ("/projects", {"workspace": "1331"}),
        ("/projects", {"team": "1350"}),
        ("/workspaces/1331/projects", {}),
        ("/teams/1350/projects", {}),
        (f"/portfolios/{portfolio}/items", {}),
    ):
        found: list[str] = []
        offset: dict[str, str] | None = {}
        while offset is not None:
            page = (await world.api.get(path, params=params | {"limit": "2"} | offset)).json()
            found += [each["gid"] for each in page["data"]]
            following = page["next_page"]
            offset = following and {"offset": following["offset"]}
        assert found[-4:] == projects
    for path in ("/workspaces/1331/projects", "/teams/1350/projects"):
        assert projects[0] not in await world.gids(path, archived=False)


async def test_portfolio_tells_of_its_projects(world: World) -> None:
    portfolio = (await world.post("/portfolios", name="All", workspace="1331"))["gid"]
    assert await world.gids("/portfolios", workspace="1331", owner="me") == [portfolio]
    assert await world.gids("/portfolios", workspace="1331", owner="1202") == []
    webhook = await world.watch(portfolio, {"resource_type": "project"})
    for action in ("addItem", "addItem", "removeItem", "removeItem"):
        path, item = f"/portfolios/{portfolio}/{action}", {"data": {"item": "8675309"}}
        assert (await world.api.post(path, json=item)).json() == {"data": {}}
        await world.put("/projects/8675309", name=action)
    told = [(event["action"], event["parent"]) for [event] in await world.told(webhook)]
    parent = {"gid": portfolio, "resource_type": "portfolio"}
    assert told == [("added", parent), ("changed", None), ("removed", parent)]


@pytest.mark.parametrize(
    ("method", "path", "data", "message"),
    [
        ("POST", "/portfolios", {"name": "All"}, "workspace: Missing input"),
        ("POST", "/portfolios", {"workspace": "1331"}, "name: Missing input"),
        ("GET", "/portfolios", {}, "workspace: Missing input"),
        ("GET", "/portfolios?workspace=1331", {}, "owner: Missing input"),
    ],
)
async def test_portfolio_without_what_it_needs_is_refused(
    world: World, method: str, path: str, data: dict[str, Any], message: str
) -> None:
    assert await world.refused(method, path, data) == (400, message)


async def test_item_of_a_portfolio_must_be_named(world: World) -> None:
    portfolio = await world.asana.create_portfolio("All")
    refused = await world.refused("POST", f"/portfolios/{portfolio}/addItem", {})
    assert refused == (400, "item: Missing input")


# What was called


async def test_calls_are_kept_with_token_and_user(world: World, kim: Api) -> None:
    await kim.get("/users/me", params={"opt_fields": "name"})
    await world.api.get("/users/me")
    await kim.get("/nothing")
    first, second, third = world.asana.calls()
    assert first == Call("GET", "/api/1.0/users/me", 200)
    assert (first.token, first.query) == ("kims-token", "opt_fields=name")
    assert (second.token, second.user) == ("app-one", world.asana.user)
    assert (third.status, third.token, third.user) == (404, "", "")
    assert "kims-token" not in repr(first)
    assert world.asana.calls("GET", "/users/me", token="kims-token") == [first]
    assert world.asana.calls(path="/users/*") == world.asana.calls(path="/users/me")
    assert world.asana.calls("POST") == []


async def test_hidden_webhook_is_in_no_list(world: World) -> None:
    hidden, shown = await world.watch("8675309"), await world.watch("1301")
    world.asana.webhooks[hidden].faults.add("not-found")
    assert await world.gids("/webhooks", workspace="1331") == [shown]
    world.asana.faults.add("not-found")
    assert await world.gids("/webhooks", workspace="1331") == []
