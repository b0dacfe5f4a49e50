"""The local Asana in a thread, from functions, from coroutines, and from its own loop."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from conftest import guard, until
from support.plain_http import NO_TLS

from asana_webhooks import WebhooksClient
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.simulator.threaded import ThreadedSimulator, threaded_simulator
from asana_webhooks.testing import local_client


@pytest.fixture
def asana() -> Iterator[ThreadedSimulator]:
    with threaded_simulator(retry_delay=0.01) as simulator:
        yield simulator


@pytest.fixture
def client(asana: ThreadedSimulator) -> Iterator[WebhooksClient]:
    with local_client(asana.base_url) as made:
        yield made


async def test_client_in_this_loop_answers_while_this_loop_waits_for_asana(
    asana: ThreadedSimulator, client: WebhooksClient
) -> None:
    loops = []

    @client.on("task", action="added")
    async def note(event: object) -> None:
        loops.append(asyncio.get_running_loop())

    async with client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        assert [attempt.status for attempt in asana.deliveries] == [200, 200]
        assert await asana.deliver(webhook.gid, b'{"events":[]}') == 200
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            await until(lambda: loops)
            tasks.cancel_scope.cancel()
    assert set(loops) == {asyncio.get_running_loop()}


def test_function_waits_with_run(asana: ThreadedSimulator) -> None:
    task = asana.run(asana.create_task("Fix the login", project=asana.project))
    assert asana.run(asana.add_comment(task, "Done")) != task
    assert asana.run(asana.settled()) is None


def test_each_loop_may_use_it(asana: ThreadedSimulator) -> None:
    async def create() -> str:
        return await asana.create_task("Fix the login", project=asana.project)

    here, there = asyncio.run(create()), asana.run(create())
    assert int(there) == int(here) + 1


def test_error_of_the_call_is_raised_where_it_was_made(asana: ThreadedSimulator) -> None:
    with pytest.raises(ValueError, match="there is no project with gid '12'"):
        asana.run(asana.create_task("Fix the login", project="12"))
    with pytest.raises(ValueError, match="there is no project with gid '12'"):
        asyncio.run(asana.create_task("Fix the login", project="12"))


async def test_run_refuses_to_block_a_loop(asana: ThreadedSimulator) -> None:
    with pytest.raises(RuntimeError, match="await the call instead"):
        asana.run(asana.settled())


def test_run_refuses_to_block_the_loop_of_the_thread(asana: ThreadedSimulator) -> None:
    async def wait() -> None:
        asana.run(asana.settled())

    with pytest.raises(RuntimeError, match="await the call instead"):
        asana.run(wait())


def test_run_gives_up_when_nobody_answers(asana: ThreadedSimulator) -> None:
    waits: list[str] = []

    async def never() -> None:
        try:
            await asana.create_started.wait()
        finally:
            waits.append("cancelled")

    with pytest.raises(TimeoutError, match="not done after 0.05 seconds: does the target"):
        asana.run(never(), timeout=0.05)
    asana.run(asana.settled())
    assert waits == ["cancelled"]


def test_timeout_of_the_call_itself_is_passed_on(asana: ThreadedSimulator) -> None:
    async def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        asana.run(fail())


async def test_cancelling_the_wait_cancels_the_call(asana: ThreadedSimulator) -> None:
    ended = threading.Event()

    async def wait_there() -> None:
        try:
            await asana.release_201.wait()
        finally:
            ended.set()

    view: Any = asana
    there = view._thread._awaited(wait_there)
    with anyio.move_on_after(0.05):
        await there()
    await until(ended.is_set)


async def test_events_may_be_awaited_and_set_from_here(
    asana: ThreadedSimulator, client: WebhooksClient
) -> None:
    asana.faults.add("slow-201")
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.ensure, asana.project)
        with guard():
            await asana.create_started.wait()
            await asana.handshake_done.wait()
        assert asana.handshake_done.is_set()
        assert not asana.release_201.is_set()
        asana.release_201.set()


def three_wait_for(event: Any) -> bool:
    return len(event._waiters) == 3


async def test_events_may_be_awaited_in_many_loops(
    asana: ThreadedSimulator, client: WebhooksClient
) -> None:
    async with client:
        webhook = await client.ensure(asana.project)
        for event in (asana.release_201, asana.webhooks[webhook.gid].deleted):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(event.wait)
                tasks.start_soon(asyncio.to_thread, asyncio.run, event.wait())
                tasks.start_soon(asyncio.to_thread, asana.run, event.wait())
                await until(partial(three_wait_for, event))
                event.set()


async def test_events_may_be_set_by_what_runs_in_the_thread(asana: ThreadedSimulator) -> None:
    async def release() -> bool:
        asana.release_201.set()
        return await asana.release_201.wait()

    assert await asyncio.to_thread(asana.run, release())


async def test_records_of_webhooks_are_shown_alive(
    asana: ThreadedSimulator, client: WebhooksClient
) -> None:
    webhooks = asana.webhooks
    assert (len(webhooks), list(webhooks), repr(webhooks)) == (0, [], "{}")
    async with client:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        (record,) = webhooks.values()
        assert (
            dict(webhooks.items())
            == {webhook.gid: record}
            == {record.gid: asana.webhooks[record.gid]}
        )
        assert {record} == {webhooks[webhook.gid]}
        assert record != object()
        assert repr(record).startswith("WebhookRecord(")
        assert record.secret not in repr(record)
        assert record.secret == webhook.secret
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(record.deleted.wait)
            await client.delete_webhook(webhook.gid)
        assert record.deleted.is_set()
    assert not webhooks


async def test_records_may_be_changed(asana: ThreadedSimulator, client: WebhooksClient) -> None:
    async with client:
        webhook = await client.ensure(asana.project)
        asana.webhooks[webhook.gid].active = False
        assert (await client.get_webhook(webhook.gid)).active is False


async def test_mappings_are_changed_through_it(asana: ThreadedSimulator) -> None:
    asana.changes["new_webhooks"] = "https://forum.example.com/t/1"
    asana.changes["string_ids"] = "https://forum.example.com/t/2"
    del asana.changes["string_ids"]
    async with httpx.AsyncClient(
        verify=NO_TLS, headers={"Authorization": "Bearer a-token"}
    ) as http:
        answer = await http.get(f"{asana.base_url}/users/me")
    assert answer.headers["Asana-Change"].startswith("name=new_webhooks;")
    assert "string_ids" not in answer.headers["Asana-Change"]


async def test_time_passes_while_the_client_of_this_loop_answers(
    asana: ThreadedSimulator, client: WebhooksClient
) -> None:
    async with client:
        await client.ensure(asana.project)
        await asana.advance(hours=24)
    heartbeats = [attempt for attempt in asana.deliveries if attempt.body == b'{"events":[]}']
    assert [attempt.status for attempt in heartbeats] == [200] * 4


def test_it_has_whatever_the_local_asana_has(asana: ThreadedSimulator) -> None:
    public = {name for name in dir(AsanaSimulator()) if not name.startswith("_")}
    assert {name for name in public if not hasattr(asana, name)} == set()
    with pytest.raises(AttributeError, match="'AsanaSimulator' object has no attribute 'nonsense'"):
        asana.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_forgotten_await_is_named(asana: ThreadedSimulator) -> None:
    with pytest.warns(RuntimeWarning, match="'AsanaSimulator.settled' was never awaited"):
        asana.settled()  # type: ignore[unused-coroutine] # the mistake


def test_other_kinds_of_loops_are_refused(asana: ThreadedSimulator) -> None:
    call = asana.settled()
    with pytest.raises(RuntimeError, match="anyio_backend"):
        call.send(None)


def test_it_ends_with_its_thread_though_deliveries_and_calls_are_under_way() -> None:
    async def establish_and_leave(client: WebhooksClient, project: str) -> None:
        async with client:
            await client.ensure(project)

    before = threading.active_count()
    with threaded_simulator(retry_delay=60) as asana, local_client(asana.base_url) as client:
        asyncio.run(establish_and_leave(client, asana.project))
        asana.run(asana.create_task("Nobody answers", project=asana.project))
        view: Any = asana
        waiting = view._thread.start(asana.settled)
        never = view._thread.start(asyncio.Event().wait)
    assert (waiting.done(), never.cancelled()) == (True, True)
    assert threading.active_count() == before


def test_it_ends_when_its_user_fails() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), threaded_simulator() as asana:
        raise KeyError(asana.project)
    assert threading.active_count() == before


def test_call_after_the_end_is_refused() -> None:
    with threaded_simulator() as asana:
        pass
    with pytest.raises(RuntimeError, match="the local Asana has ended"):
        asana.run(asana.settled())
    with pytest.raises(RuntimeError, match="the local Asana has ended"):
        asyncio.run(asana.settled())


def test_options_are_those_of_the_simulator(free_port: int) -> None:
    with threaded_simulator(port=free_port) as asana:
        assert f":{free_port}/" in asana.base_url
        with (
            pytest.raises(OSError, match="address already in use"),
            threaded_simulator(port=free_port),
        ):
            pytest.fail("two listen on one port")
    with (
        pytest.raises(ValueError, match="retry_delay must be a positive"),
        threaded_simulator(retry_delay=0),
    ):
        pytest.fail("it was not checked")
