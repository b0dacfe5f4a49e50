"""Kills at each step: an event that was answered 200 is handled, on every store."""

import signal
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import eventually, until
from support.replicas import BUSY, LEASE, Replica, Sent, Webhook, World, world_on

pytestmark = pytest.mark.slow


@pytest.fixture
async def webhook(world: World) -> Webhook:
    webhook = Webhook(1)
    await world.confirm(webhook)
    return webhook


async def test_killed_before_the_commit_nothing_was_acknowledged_and_the_repeat_is_stored(
    world: World, webhook: Webhook
) -> None:
    sent = webhook.delivery()
    dying = await world.started(serve=True, die_at="commit")
    assert await world.post(sent, dying) is None
    assert dying.wait() == -signal.SIGKILL
    assert await world.is_empty()
    other = await world.started(serve=True, work=True)
    assert await world.is_accepted(sent, other)
    await until(lambda: world.gids() == [sent.gid])


async def test_killed_before_the_answer_the_repeat_is_a_duplicate_and_handled_once(
    world: World, webhook: Webhook
) -> None:
    first, second = webhook.delivery(), webhook.delivery()
    dying = await world.started(serve=True, die_at="answer")
    assert await world.post(first, dying) is None
    assert dying.wait() == -signal.SIGKILL
    assert await world.waiting() == 1
    other = await world.started(serve=True, work=True)
    assert await world.is_accepted(first, other)
    assert await world.is_accepted(second, other)
    await until(lambda: second.gid in world.gids())
    assert world.gids() == [first.gid, second.gid]
    assert world.notes() == ["duplicate"]


@pytest.mark.parametrize("step", ["handler", "ack"])
async def test_killed_after_the_answer_the_event_comes_again_with_the_same_key(
    world: World, webhook: Webhook, step: str
) -> None:
    sent = webhook.delivery()
    living = await world.started(serve=True)
    dying = await world.started(work=True, die_at=step, lease=LEASE)
    assert await world.is_accepted(sent, living)
    assert dying.wait() == -signal.SIGKILL
    assert await world.waiting() == 1
    await world.started(work=True)
    with anyio.fail_after(LEASE + 5 + BUSY):
        await until(lambda: len(world.lines()) == 2)
    first, second = (line.split()[:2] for line in world.lines())
    assert first == second
    await eventually(world.is_empty)


async def test_killed_in_a_group_commit_none_of_the_group_is_stored(tmp_path: Path) -> None:
    async with world_on("sqlite", tmp_path) as world:
        webhooks = [Webhook(number) for number in range(1, 21)]
        await world.confirm(*webhooks)
        group = [webhook.delivery() for webhook in webhooks]
        dying = await world.started(serve=True, die_at="group")
        accepted = await post_all(world, group, dying)
        assert dying.wait() == -signal.SIGKILL
        assert sum(accepted.values()) <= await world.waiting() < len(group)
        other = await world.started(serve=True, work=True)
        assert all((await post_all(world, group, other)).values())
        await until(lambda: len(world.gids()) == len(group))
        await eventually(world.is_empty)
        assert set(world.gids()) == {sent.gid for sent in group}


async def post_all(world: World, group: list[Sent], to: Replica) -> dict[str, bool]:
    """Post at once, and return which gids were accepted."""
    accepted: dict[str, bool] = {}

    async def post(sent: Sent) -> None:
        accepted[sent.gid] = await world.is_accepted(sent, to)

    async with anyio.create_task_group() as tasks:
        for sent in group:
            tasks.start_soon(post, sent)
    return accepted


async def test_terminated_in_order_it_finishes_what_is_under_way_and_nothing_is_repeated(
    world: World,
) -> None:
    webhook = Webhook(1, tasks=1)  # whose events are handled one after the other
    await world.confirm(webhook)
    replica = await world.started(serve=True, work=True, pause=0.3)
    sent = [webhook.delivery() for _ in range(5)]
    for each in sent:
        assert await world.is_accepted(each, replica)
    await until(lambda: "begun" in world.notes())
    replica.terminate()
    began = time.monotonic()
    assert await anyio.to_thread.run_sync(replica.wait) == 0
    assert time.monotonic() - began < 10 + BUSY
    done = len(world.lines())
    assert 0 < done < len(sent)
    await world.started(work=True)
    await until(lambda: len(world.lines()) == len(sent))
    assert world.gids() == [each.gid for each in sent]
    await eventually(world.is_empty)


async def test_interrupted_twice_it_ends_at_once_and_the_event_comes_again(
    world: World, webhook: Webhook
) -> None:
    sent = webhook.delivery()
    replica = await world.started(serve=True, work=True, pause=60.0, lease=LEASE)
    assert await world.is_accepted(sent, replica)
    await until(lambda: "begun" in world.notes())
    replica.send(signal.SIGINT)
    await anyio.sleep(1.0)  # two at once are one
    replica.send(signal.SIGINT)
    began = time.monotonic()
    await anyio.to_thread.run_sync(replica.wait)
    assert time.monotonic() - began < 6  # a handler that is not interrupted again has seven more
    assert world.lines() == []
    await world.started(work=True)
    await until(lambda: world.gids() == [sent.gid])
    await eventually(world.is_empty)


# Handlers that end the process


async def work_until_buried(world: World, **orders: Any) -> int:
    """Start a worker whenever it has died, until there is a dead letter; return the deaths."""
    deaths = 0
    async with world.place.store() as store:
        worker = await world.started(work=True, lease=LEASE, **orders)
        while not await store.dead_letters():
            if worker.has_ended:
                assert worker.wait() in (7, -signal.SIGKILL)
                deaths += 1
                worker = await world.started(work=True, lease=LEASE, **orders)
            await anyio.sleep(0.02)
    return deaths


async def put(world: World, *sent: Sent) -> None:
    async with world.place.store() as store:
        for each in sent:
            assert await store.put(each.stored())


async def test_event_that_ends_its_process_is_given_up_and_all_that_stood_near_are_handled(
    world: World,
) -> None:
    webhooks = [Webhook(number) for number in range(1, 5)]
    await world.confirm(*webhooks)
    first, *others = webhooks
    before, deadly, behind = first.delivery(), first.delivery(events=3), first.delivery()
    near = [other.delivery(events=2) for other in others for _ in range(3)]
    await put(world, before, deadly, behind, *near)
    killer = deadly.gids[1]
    deaths = await work_until_buried(world, deadly={killer: "kill"}, max_attempts=3)
    await eventually(world.is_empty)
    assert deaths == 4  # the first may be somebody else's
    assert world.notes().count("dies") == 4
    async with world.place.store() as store:
        (letter,) = await store.dead_letters()
    assert deadly.is_of(letter, killer)
    assert letter.reason.endswith(
        "its handlers ended the process, or blocked it for longer than a lease, 3 times"
    )
    others_of_it = [gid for gid in deadly.gids if gid != killer]
    handled = [before.gid, *others_of_it, behind.gid, *(gid for each in near for gid in each.gids)]
    assert set(world.gids()) == set(handled)


async def test_slow_handler_beside_one_that_ends_the_process_has_its_turn_alone(
    tmp_path: Path,
) -> None:
    async with world_on("sqlite", tmp_path) as world:
        webhooks = [Webhook(number) for number in range(1, 4)]
        await world.confirm(*webhooks)
        deadly, *slow = [webhook.delivery() for webhook in webhooks]
        await put(world, *slow, deadly)  # those are claimed first
        orders = {"deadly": {deadly.gid: "kill"}, "pause": 0.5, "max_attempts": 3}
        deaths = await work_until_buried(world, **orders)
        assert deaths >= 4
        await eventually(world.is_empty)
        async with world.place.store() as store:
            (letter,) = await store.dead_letters()
        assert deadly.is_of(letter, deadly.gid)
        assert sorted(world.gids()) == [each.gid for each in slow]


async def test_ten_processes_that_a_handler_ended_bury_its_delivery_alone(tmp_path: Path) -> None:
    async with world_on("sqlite", tmp_path) as world:
        webhooks = [Webhook(number) for number in range(1, 4)]
        await world.confirm(*webhooks)
        deadly, *near = [webhook.delivery() for webhook in webhooks for _ in range(5)]
        await put(world, deadly, *near)
        deaths = await work_until_buried(world, deadly={deadly.gid: "exit"})
        await eventually(world.is_empty)
        async with world.place.store() as store:
            (letter,) = await store.dead_letters()
        assert deadly.is_of(letter, deadly.gid)
        assert letter.reason.endswith(
            "its handlers ended the process, or blocked it for longer than a lease, 10 times"
        )
        assert deaths == 11
        assert set(world.gids()) == {each.gid for each in near}


async def test_processes_killed_from_outside_bury_nothing_that_had_not_begun(
    tmp_path: Path,
) -> None:
    async with world_on("sqlite", tmp_path) as world:
        webhook = Webhook(1)
        await world.confirm(webhook)
        sent = [webhook.delivery() for _ in range(20)]
        await put(world, *sent)
        for number in range(5):
            worker = await world.started(
                work=True, lease=LEASE, pause=60.0, max_attempts=3, concurrency=1
            )
            await until(lambda: len(world.notes()) > number)  # noqa: B023 - awaited at once
            worker.kill()
        await world.started(work=True, max_attempts=3)
        await eventually(world.is_empty)
        async with world.place.store() as store:
            letters = await store.dead_letters()
        (letter,) = letters
        assert sent[0].is_of(letter, sent[0].gid)  # it had begun each time
        assert world.gids() == [each.gid for each in sent[1:]]  # in order
