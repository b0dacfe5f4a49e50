"""What was answered 200 is handled, at whatever step the process was killed, on every store."""

import signal
import time
from pathlib import Path

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
    world: World, webhook: Webhook
) -> None:
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
