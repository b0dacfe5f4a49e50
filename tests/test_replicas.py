"""Several receivers and workers on one store: leases, order, duplicates, and the handshake."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from chaos import out_of_order
from conftest import eventually, guard, until
from support.ports import free_tcp_port
from support.replicas import BUSY, KEPT_LEASE, LEASE, Replica, Sent, Webhook, World

from asana_webhooks import EstablishmentError, Event, WebhooksClient
from asana_webhooks.simulator import AsanaSimulator

pytestmark = pytest.mark.slow


@pytest.fixture
async def webhook(world: World) -> Webhook:
    webhook = Webhook(1)
    await world.confirm(webhook)
    return webhook


async def put(world: World, *sent: Sent) -> None:
    async with world.place.store() as store:
        for each in sent:
            assert await store.put(each.stored())


# Leases


async def test_delivery_of_a_worker_that_died_is_taken_over_by_a_living_one_in_time(
    world: World, webhook: Webhook
) -> None:
    sent = webhook.delivery()
    await put(world, sent)
    dying = await world.started(work=True, pause=60.0, lease=LEASE)
    await until(lambda: "begun" in world.notes())
    await world.started(work=True)
    dying.kill()
    with anyio.fail_after(LEASE + 5 + BUSY):
        await until(lambda: world.gids() == [sent.gid])
    await eventually(world.is_empty)


async def test_living_worker_keeps_its_lease_as_long_as_its_handler_takes(
    world: World, webhook: Webhook
) -> None:
    sent = webhook.delivery()
    await put(world, sent)
    working = await world.started(work=True, lease=KEPT_LEASE, pause=1.5 * KEPT_LEASE)
    await until(lambda: "begun" in world.notes())
    await world.started(work=True)
    await until(world.lines)
    await eventually(world.is_empty)
    (line,) = world.lines()
    assert line.split()[2] == str(working.pid)
    assert world.notes().count("begun") == 1
    assert "a lease ran out" not in world.log()


async def test_worker_that_slept_beyond_its_lease_is_taken_over_and_cannot_acknowledge(
    world: World, webhook: Webhook
) -> None:
    sent = webhook.delivery()
    await put(world, sent)
    sleeping = await world.started(work=True, pause=3.0, lease=LEASE)
    await until(lambda: "begun" in world.notes())
    sleeping.send(signal.SIGSTOP)
    other = await world.started(work=True, pause=5.0)
    await until(lambda: world.notes().count("begun") == 2)  # the other has the lease now
    sleeping.send(signal.SIGCONT)
    await until(lambda: world.lines() and "fenced" in world.notes())  # whichever word came first
    assert await world.waiting() == 1  # it is still the other's
    await eventually(world.is_empty)
    first, second = (line.split() for line in world.lines())
    assert first[:2] == second[:2]  # a handler can tell that it is a repeat
    assert first[2:] + second[2:] == [str(sleeping.pid), str(other.pid)]


# Order and duplicates


async def test_deliveries_of_a_webhook_are_handled_in_order_by_several_workers(
    world: World,
) -> None:
    webhooks = [Webhook(number) for number in range(1, 5)]
    for _ in range(2):
        await world.started(work=True, concurrency=1, pause=0.01)
    await put(world, *(webhook.delivery() for _ in range(60) for webhook in webhooks))
    await until(lambda: len(world.lines()) == 240)
    await eventually(world.is_empty)
    gids = world.gids()
    assert len(set(gids)) == 240
    assert out_of_order(gids) == 0
    assert len({line.split()[2] for line in world.lines()}) == 2  # both took part


async def test_same_bytes_at_two_receivers_at_once_are_accepted_twice_and_handled_once(
    world: World, webhook: Webhook
) -> None:
    receivers = [await world.started(serve=True) for _ in range(2)]
    sent = [webhook.delivery() for _ in range(30)]
    accepted: list[bool] = []

    async def post(each: Sent, receiver: Replica) -> None:
        accepted.append(await world.is_accepted(each, receiver))

    for each in sent:
        async with anyio.create_task_group() as tasks:
            for receiver in receivers:
                tasks.start_soon(post, each, receiver)
    assert accepted == [True] * 60
    assert world.notes() == ["duplicate"] * 30
    await world.started(work=True, order="webhook")
    await until(lambda: len(world.gids()) == 30)
    await eventually(world.is_empty)
    assert world.gids() == [each.gid for each in sent]


# Webhooks


@pytest.fixture
def make_replica(world: World, asana: AsanaSimulator) -> Callable[..., WebhooksClient]:
    """Return a function that makes clients on one store, whose handshakes reach ``port``."""

    def make(public_port: int, port: int) -> WebhooksClient:
        return WebhooksClient(
            "a-token",
            public_url=f"http://127.0.0.1:{public_port}/hooks",
            port=port,
            store=world.place.store(),
            base_url=asana.base_url,
        )

    return make


@asynccontextmanager
async def running(client: WebhooksClient) -> AsyncIterator[list[str]]:
    """Run the client's handlers, and yield the list of what they were given."""
    gids: list[str] = []

    @client.on("task", action="changed", field="completed")
    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    task = asyncio.create_task(client.run())
    try:
        yield gids
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("fault", [None, "handshake-twice", "stranger-first", "stranger-after"])
async def test_handshake_reaches_one_replica_while_another_asks_for_the_webhook(
    world: World,
    asana: AsanaSimulator,
    make_replica: Callable[..., WebhooksClient],
    fault: str | None,
) -> None:
    if fault is not None:
        asana.faults.add(fault)
    port_a, port_b = free_tcp_port(), free_tcp_port()
    async with make_replica(port_b, port_a) as a, make_replica(port_b, port_b) as b:
        webhook = await a.ensure(asana.project)
        assert len(asana.webhooks) == 1
        same = await b.ensure(asana.project)
        assert (same.gid, same.secret) == (webhook.gid, webhook.secret)
        async with running(b) as gids:
            task = await asana.create_task("Fix the login", project=asana.project)
            await asana.complete_task(task)
            await until(lambda: gids == [task])
    assert {attempt.status for attempt in asana.deliveries} == {200}


async def test_replica_that_asked_fails_closed_when_strangers_flood_another(
    world: World, asana: AsanaSimulator, make_replica: Callable[..., WebhooksClient]
) -> None:
    asana.faults.add("strangers-flood")
    port_a, port_b = free_tcp_port(), free_tcp_port()
    async with make_replica(port_b, port_a) as a, make_replica(port_b, port_b) as b:
        with pytest.raises(EstablishmentError):
            await a.ensure(asana.project)
        assert len(asana.webhooks) == 0
        asana.faults.clear()
        await b.ensure(asana.project)  # no reservation is in its way
        assert len(asana.webhooks) == 1


async def test_events_that_reach_a_replica_before_the_answer_reached_another_are_handled(
    world: World, asana: AsanaSimulator, make_replica: Callable[..., WebhooksClient]
) -> None:
    asana.faults.add("early-events")
    port_a, port_b = free_tcp_port(), free_tcp_port()
    async with make_replica(port_b, port_a) as a, make_replica(port_b, port_b) as b:
        await a.ensure(asana.project)
        with guard():
            assert (await anext(b.events())).resource.gid


async def test_route_that_one_replica_confirmed_or_retired_is_so_at_the_other(
    world: World, asana: AsanaSimulator, make_replica: Callable[..., WebhooksClient]
) -> None:
    port_a, port_b = free_tcp_port(), free_tcp_port()
    async with make_replica(port_a, port_a) as a, make_replica(port_a, port_b):
        webhook = await a.ensure(asana.project)
        assert webhook.target is not None
        assert webhook.secret is not None
        own = Webhook(1)
        own.route, own.secret = webhook.target.rpartition("/")[2], webhook.secret
        other = world.replica(port=port_b)  # never started: the client above is there
        assert await world.is_accepted(own.delivery(), other)
        await a.delete_webhook(webhook.gid)

        async def is_refused() -> bool:
            answer = await world.post(own.delivery(), other)
            return answer is not None and answer.status_code == 404

        with anyio.fail_after(1 + BUSY):  # it is known for a second
            await eventually(is_refused)


async def test_many_processes_that_ensure_at_once_make_one_webhook(
    world: World, asana: AsanaSimulator
) -> None:
    receiver = world.replica(serve=True)
    public_url = f"http://127.0.0.1:{receiver.orders.port}/hooks"
    receiver.orders = msgspec.structs.replace(receiver.orders, public_url=public_url)
    await receiver.start()
    orders = {"public_url": public_url, "base_url": asana.base_url, "resource": asana.project}
    replicas = [world.replica(**orders) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for replica in replicas:
            tasks.start_soon(replica.start)
    for replica in replicas:
        replica.write_line("go")
    gids = {await replica.read_line() for replica in replicas}
    assert gids == set(asana.webhooks)
    assert len(gids) == 1
    assert {replica.wait() for replica in replicas} == {0}
