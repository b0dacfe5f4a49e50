"""Projects of a workspace, a team or a portfolio that are followed, at the local Asana."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from conftest import eventually, guard, over_each_store, until

from asana_webhooks import (
    EstablishmentError,
    Event,
    MemoryStore,
    WebhookFilter,
    WebhooksClient,
    _asana_transport,
    _desired,
    _establish,
)
from asana_webhooks import _follow as module
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store
from asana_webhooks.testing import advance

MakeClient = Callable[..., WebhooksClient]

ADDED = WebhookFilter(resource_type="task", action="added")
LOOK = 900.0
"""Seconds from one list to the next."""


class Place:
    """The workspace of the local Asana, and calls that change what is in it."""

    def __init__(self, asana: AsanaSimulator) -> None:
        self.asana = asana
        self.gid = asana.workspace
        self._http = httpx.AsyncClient(headers={"Authorization": "Bearer somebody"})

    async def call(self, method: str, path: str, **data: Any) -> Any:
        url = f"{self.asana.base_url}{path}"
        response = await self._http.request(method, url, json={"data": data})
        response.raise_for_status()
        return response.json()["data"]

    async def add(self, count: int, **options: Any) -> list[str]:
        return [await self.asana.create_project(f"no. {n}", **options) for n in range(count)]

    async def team(self) -> str:
        made = await self.call("POST", "/teams", name="Builders", organization=self.gid)
        return str(made["gid"])

    def watched(self) -> set[str]:
        """Return what has a webhook, but for containers."""
        resources = {each.resource for each in self.asana.webhooks.values()}
        return {gid for gid in resources if gid in self.projects()}

    def projects(self) -> set[str]:
        return {each.gid for each in self.asana._state.all("project")}

    async def aclose(self) -> None:
        await self._http.aclose()


@pytest.fixture
async def place(asana: AsanaSimulator) -> AsyncIterator[Place]:
    place = Place(asana)
    yield place
    await place.aclose()


@pytest.fixture
def make(make_client: MakeClient, store: Store) -> MakeClient:
    """Return a function that makes clients with one handler, which read no streams."""

    def make(**options: Any) -> WebhooksClient:
        client = make_client(**{"store": store, "reconcile": None, **options})

        @client.on("task", action="added")
        async def handle(event: Event) -> None:
            pass

        return client

    return make


async def held(store: Store, container: str) -> set[str]:
    """Return what a follow holds by the store."""
    state = await store.get_state(f"/follow-{container}")
    return set() if state is None else set(msgspec.json.decode(state.text)["held"])


# What is covered


@pytest.mark.parametrize("kind", ["workspace", "team", "portfolio"])
async def test_each_project_of_a_container_is_watched(
    make: MakeClient, place: Place, asana: AsanaSimulator, kind: str
) -> None:
    team = await place.team()
    others = await place.add(2)
    inside = await place.add(3, team=team)
    portfolio = await asana.create_portfolio("All", projects=inside)
    container = {"workspace": place.gid, "team": team, "portfolio": portfolio}[kind]
    client = make()
    client.follow(container)
    async with client:
        await client.kept()
        wanted = place.projects() if kind == "workspace" else set(inside)
        assert place.watched() == wanted
        assert len(asana.webhooks) == len(wanted) + 1  # and one on the container
    assert others


async def test_new_project_is_watched_soon_after_its_event(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    client = make()
    client.follow(place.gid)
    async with client.running():
        await client.kept()
        lists = len(asana.calls("GET", f"/workspaces/{place.gid}/projects"))
        (new,) = await place.add(1)
        await asana.settled()
        await _handled(client)
        await advance(asana, 5.0, client=client)
        await until(lambda: new in place.watched())
        assert len(asana.calls("GET", f"/workspaces/{place.gid}/projects")) == lists


async def _handled(client: WebhooksClient) -> None:
    async def is_empty() -> bool:
        return (await client.stats()).waiting == 0

    await eventually(is_empty)


async def test_without_its_events_a_new_project_is_found_by_the_next_list(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    client = make()
    client.follow(place.gid)
    async with client:  # nobody handles events
        await client.kept()
        (new,) = await place.add(1)
        await advance(asana, LOOK, client=client)
        await until(lambda: new in place.watched())


@pytest.mark.parametrize("by", ["event", "list"])
@pytest.mark.parametrize("change", ["archived", "deleted", "taken out"])
async def test_project_that_leaves_or_no_longer_fits_is_left(
    make: MakeClient,
    place: Place,
    asana: AsanaSimulator,
    store: Store,
    by: str,
    change: str,
) -> None:
    team = await place.team()
    one, two = await place.add(2, team=team)
    portfolio = await asana.create_portfolio("Both", projects=[one, two])
    container = portfolio if change == "taken out" else team
    client = make()
    client.follow(container, where={"archived": False})
    async with client.running() if by == "event" else client:
        await client.kept()
        assert place.watched() == {one, two}
        if change == "archived":
            await place.call("PUT", f"/projects/{one}", archived=True)
        elif change == "deleted":
            await asana.delete(one)
        else:
            await place.call("POST", f"/portfolios/{portfolio}/removeItem", item=one)
        await asana.settled()
        if by == "event":
            await _handled(client)
        await advance(asana, 5.0 if by == "event" else LOOK, client=client)
        await until(lambda: one not in {each.resource for each in asana.webhooks.values()})
        assert await held(store, container) == {two}
        assert two in place.watched()


async def test_change_while_a_project_is_asked_for_is_not_missed(
    make: MakeClient, place: Place, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = await place.team()
    one, two = await place.add(2, team=team)
    client, answered, goes_on = make(), asyncio.Event(), asyncio.Event()
    client.follow(team, where={"archived": False})
    async with client.running():
        await client.kept()
        api = client._parts().follows.api
        request = api.request

        async def slow(method: str, path: str, **options: Any) -> Any:
            answer = await request(method, path, **options)
            if path == f"/projects/{one}":
                answered.set()
                await goes_on.wait()
            return answer

        monkeypatch.setattr(api, "request", slow)
        await place.call("PUT", f"/projects/{one}", name="another")
        await asana.settled()
        await _handled(client)
        time_passes = asyncio.create_task(advance(asana, 5.0, client=client))
        await answered.wait()
        await place.call("PUT", f"/projects/{one}", archived=True)
        await asana.settled()
        await _handled(client)
        goes_on.set()
        await time_passes
        await advance(asana, 5.0, client=client)
        await until(lambda: place.watched() == {two})


async def test_project_that_a_list_lacks_is_asked_for_before_it_is_left(
    make: MakeClient, place: Place, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.add(2)
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        watched = place.watched()
        follows = client._parts().follows

        async def nothing(*args: Any, **options: Any) -> Any:
            yield []

        monkeypatch.setattr(follows.api, "iter_pages", nothing)
        await advance(asana, LOOK, client=client)
        assert place.watched() == watched


# Which projects


async def test_function_chooses_by_the_record(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    one, two = await place.add(2)
    client = make()
    client.follow(place.gid, where=lambda project: project["name"] == "no. 1")
    async with client:
        await client.kept()
        assert place.watched() == {two}
    assert one


async def test_function_that_fails_changes_nothing(
    make: MakeClient, place: Place, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        watched = place.watched()
        client.follow(place.gid, where=lambda project: project["no such field"])
        await until(lambda: "cannot be followed" in caplog.text)
        with pytest.raises(TimeoutError, match=rf"{place.gid}: KeyError\('no such field'\)"):
            await client.kept(timeout=0.01)
        assert place.watched() == watched
        client.follow(place.gid)
        await client.kept()


async def test_fields_may_be_of_what_a_project_is_in(make: MakeClient, place: Place) -> None:
    team = await place.team()
    inside = await place.add(2, team=team)
    await place.add(1)
    client = make()
    client.follow(place.gid, where={"team.gid": team})
    async with client:
        await client.kept()
        assert place.watched() == set(inside)


@pytest.mark.parametrize("where", [7, "archived", [("archived", False)]])
def test_what_chooses_no_projects_is_refused(make: MakeClient, where: Any) -> None:
    with pytest.raises(TypeError, match="where must be a mapping or a function"):
        make().follow("12", where=where)


def test_function_that_is_to_be_awaited_is_refused(make: MakeClient) -> None:
    async def where(project: dict[str, Any]) -> bool:
        raise AssertionError

    with pytest.raises(TypeError, match="where must be a plain function"):
        make().follow("12", where=where)


@pytest.mark.parametrize("name", ["", "a b", "a,b", 7])
def test_what_is_no_field_is_refused(make: MakeClient, name: Any) -> None:
    with pytest.raises(ValueError, match="where maps names"):
        make().follow("12", where={name: True})


@pytest.mark.parametrize("name", ["archivd", "nam", "teem.gid"])
def test_field_that_looks_misspelt_is_a_warning(make: MakeClient, name: str) -> None:
    with pytest.warns(UserWarning, match="did you mean"):
        make().follow("12", where={name: "Bugs"})


def test_fields_that_no_event_names_are_taken(make: MakeClient) -> None:
    make().follow("12", where={"created_at": "2026-11-30", "permalink_url": "", "team": None})


@pytest.mark.parametrize("name", ["team", "owner", "workspace"])
def test_record_is_not_compared_with_a_gid(make: MakeClient, name: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{name}.gid'"):
        make().follow("12", where={name: "1204619"})


def test_gid_that_is_a_number_is_refused(make: MakeClient) -> None:
    with pytest.raises(ValueError, match="'team.gid' is a text of digits"):
        make().follow("12", where={"team.gid": 1204619})


async def test_choice_that_no_project_fits_is_said_once(
    make: MakeClient, place: Place, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    await place.add(2)
    client = make()
    client.follow(place.gid, where={"name": "no such project"})
    async with client:
        await client.kept()
        await advance(asana, 2 * LOOK, client=client)
    assert caplog.text.count(f"following {place.gid}: none of its 3 projects fits where=") == 1


async def test_what_is_no_container_is_said(
    make: MakeClient, place: Place, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    client.follow(asana.project)
    async with client:
        with pytest.raises(TimeoutError, match="no workspace, team or portfolio"):
            await client.kept(timeout=0.5)
    assert caplog.text.count("no workspace, team or portfolio") == 1


async def test_nobody_waits_for_a_container_that_was_left(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()
    client.follow(asana.project)  # which is no container
    async with client:
        waiting = asyncio.create_task(client.kept(timeout=None))
        await until(client._parts().follows.problems)
        await client.leave(asana.project)
        with guard():
            await waiting


# Its webhooks


async def test_filters_follow_the_handlers(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()

        @client.on("task", action="removed")
        async def handle(event: Event) -> None:
            pass

        await client.kept()
        projects = [each for each in asana.webhooks.values() if each.resource != place.gid]
        assert projects
        for webhook in projects:
            assert {each["action"] for each in webhook.filters} == {"added", "removed"}


async def test_handlers_get_no_events_of_the_container_unless_they_name_it(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    client = make()
    got = list[tuple[str, str]]()

    @client.on("project", action="changed")
    async def of_any(event: Event) -> None:
        got.append(("any", event.source.resource))

    @client.on("project", action="changed", resource=place.gid)
    async def of_the_workspace(event: Event) -> None:
        got.append(("named", event.source.resource))

    client.follow(place.gid)
    async with client.running():
        await client.kept()
        await place.call("PUT", f"/projects/{asana.project}", name="Features")
        await until(lambda: len(got) == 2)
        await asana.settled()
        await _handled(client)
        assert sorted(got) == [("any", asana.project), ("named", place.gid)]
        client.keep(place.gid, filters=list(module.CONTAINER_FILTERS))
        await place.call("PUT", f"/projects/{asana.project}", name="More features")
        await until(lambda: len(got) == 5)
        assert ("any", place.gid) in got


async def test_container_that_can_have_no_webhook_is_followed_by_lists(
    make: MakeClient, place: Place, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTAINER_FILTERS", (WebhookFilter(resource_type="goal"),))
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        assert place.watched() == place.projects()
        (new,) = await place.add(1)
        await advance(asana, LOOK, client=client)
        await until(lambda: new in place.watched())


# What a program has by itself


@pytest.mark.parametrize("how", ["kept", "ensured before", "ensured by an earlier program"])
async def test_webhook_that_a_program_wants_itself_is_not_left_with_the_follow(
    make: MakeClient, place: Place, asana: AsanaSimulator, how: str
) -> None:
    (mine,) = await place.add(1)
    if how == "ensured by an earlier program":
        async with make() as client:
            await client.ensure(mine, filters=[ADDED])
    client = make()
    if how == "kept":
        client.keep(mine, filters=[ADDED])
    async with client:
        if how == "ensured before":
            await client.ensure(mine, filters=[ADDED])
        client.follow(place.gid)
        await client.kept()
        assert place.watched() == place.projects()
        await client.leave(place.gid)
        await until(lambda: [each.resource for each in asana.webhooks.values()] == [mine])


async def test_project_in_two_containers_is_left_with_the_last_of_them(
    make: MakeClient, place: Place, asana: AsanaSimulator, store: Store
) -> None:
    team = await place.team()
    (both,) = await place.add(1, team=team)
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        client.follow(team)
        await client.kept()
        assert both in await held(store, team)
        await client.leave(place.gid)
        await until(lambda: place.watched() == {both})
        await client.leave(team)
        await until(lambda: not asana.webhooks)
        assert [each for each in await store.list_states() if "follow" in each.scope] == []


# Restarts


@over_each_store
async def test_start_takes_lists_only(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    await place.add(20)
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
    before = len(asana.calls())
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        calls = [call.path.removeprefix("/api/1.0") for call in asana.calls()[before:]]
    projects = f"/workspaces/{place.gid}/projects"
    assert sorted(calls) == sorted(["/users/me", "/workspaces", "/webhooks", projects])


async def test_what_left_while_no_program_was_there_is_left_at_the_start(
    make: MakeClient, place: Place, asana: AsanaSimulator
) -> None:
    (gone,) = await place.add(1)
    client = make()
    client.follow(place.gid, where={"archived": False})
    async with client:
        await client.kept()
    await place.call("PUT", f"/projects/{gone}", archived=True)
    client = make()
    client.follow(place.gid, where={"archived": False})
    async with client:
        await until(lambda: gone not in place.watched())
        await client.kept()


@over_each_store
async def test_program_that_ended_in_the_middle_is_gone_on_with(
    make: MakeClient, place: Place, asana: AsanaSimulator, store: Store
) -> None:
    await place.add(10)
    client = make()
    client.follow(place.gid)
    async with client:
        await until(lambda: len(place.watched()) >= 3)
    assert len(place.watched()) < len(place.projects())
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        assert place.watched() == place.projects()
        assert len(asana.webhooks) == len(place.projects()) + 1
        await client.leave(place.gid)
        await until(lambda: not asana.webhooks)


@over_each_store
async def test_leaving_without_asana_is_carried_out_later(
    make: MakeClient, place: Place, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asana_transport, "MAX_TRIES", 1)
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        asana.faults.add("outage")
        await client.leave(place.gid)
    asana.faults.clear()
    assert asana.webhooks
    async with make():
        await until(lambda: not asana.webhooks)


@pytest.mark.parametrize("whose", ["the follow's", "a program's"])
async def test_webhook_that_was_deleted_on_purpose_does_not_come_back(
    make: MakeClient, place: Place, asana: AsanaSimulator, whose: str
) -> None:
    (project,) = await place.add(1)
    if whose == "a program's":
        async with make() as client:
            await client.ensure(project)
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        (gid,) = (each.gid for each in asana.webhooks.values() if each.resource == project)
        await client.delete_webhook(gid)
        await advance(asana, 2 * LOOK, client=client)
        assert project not in place.watched()


async def test_follow_that_another_process_ended_ends_here(
    make: MakeClient,
    place: Place,
    asana: AsanaSimulator,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        state = await store.get_state(f"/follow-{place.gid}")
        assert state is not None
        await store.drop_state(state.scope, state.version)
        (new,) = await place.add(1)
        await advance(asana, LOOK, client=client)
        assert "was left by another process" in caplog.text
        assert new not in place.watched()


async def test_store_that_fails_delays_what_is_held(
    make: MakeClient, place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
    state = await store.get_state(f"/follow-{place.gid}")
    assert state is not None
    await store.put_state(msgspec.structs.replace(state, text="damaged"))
    client = make()
    client.follow(place.gid)
    async with client:
        await client.kept()
        assert place.watched() == place.projects()


# Limits and words


async def test_limit_of_asana_is_said_before_it_is_met(
    make: MakeClient,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await place.add(5)
    monkeypatch.setattr(_desired, "MAX_WEBHOOKS", 3)
    monkeypatch.setattr(module, "MAX_WEBHOOKS", 3)
    client = make()
    client.follow(place.gid)
    async with client:
        await until(lambda: len(place.watched()) == 2)
        assert "4 projects have none: Asana lets a token have 3 webhooks" in caplog.text
        with pytest.raises(EstablishmentError, match="Asana lets a token have 3 webhooks"):
            client.keep("1204619")


async def test_limit_of_a_resource_is_said_before_it_is_met(
    make: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_establish, "MAX_OF_RESOURCE", 2)
    async with make() as client:
        for _ in range(2):
            await client.establish(asana.project)
        with pytest.raises(EstablishmentError, match="lets a resource have 2 webhooks"):
            await client.establish(asana.project)
    assert len(asana.webhooks) == 2


async def test_progress_is_logged_once_a_minute_and_at_the_end(
    make: MakeClient, place: Place, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asana_webhooks._follow")
    await place.add(3)
    asana.faults.add("slow-handshake")
    client = make()
    client.follow(place.gid)
    async with client:
        await until(asana.create_started.is_set)
        asana.release_handshake.set()
        await client.kept()
        await until(lambda: "all projects have their webhook (4)" in caplog.text)
        await advance(asana, LOOK, client=client)
        (new,) = await place.add(1)
        await advance(asana, LOOK, client=client)
        await until(lambda: new in place.watched())
        await advance(asana, module.REPORT_EVERY, client=client)
        await until(lambda: "all projects have their webhook (5)" in caplog.text)
    lines = [each.message for each in caplog.records if each.name.endswith("_follow")]
    assert [line.partition(": ")[2] for line in lines] == [
        "all projects have their webhook (4)",
        "all projects have their webhook (5)",
    ]


async def test_account_follows_with_its_own_token(
    place: Place, asana: AsanaSimulator, free_port: int
) -> None:
    user = await asana.add_user("Grace", token="token-of-grace")
    hers = await asana.create_project("Hers", user=user, members=[])

    async def load(account: str) -> str:
        return {"grace": "token-of-grace"}[account]

    client = WebhooksClient(
        tokens=load,
        public_url=f"http://127.0.0.1:{free_port}/hooks",
        port=free_port,
        store=MemoryStore(),
        base_url=asana.base_url,
    )
    client.account("grace").follow(place.gid)
    async with client:
        await client.account("grace").kept()
        assert place.watched() == {asana.project, hers}
        assert {call.user for call in asana.calls()} == {user}
        await client.remove_account("grace")
        await until(lambda: not asana.webhooks)
