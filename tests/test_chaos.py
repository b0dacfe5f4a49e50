"""A few rounds of ``chaos.py``, and its judgement."""

from collections import Counter

import chaos
import pytest
from support.replicas import World

pytestmark = [pytest.mark.slow, pytest.mark.own_server]

ROUNDS = 2


async def test_nothing_is_lost_however_replicas_and_servers_are_killed(world: World) -> None:
    played = chaos.Chaos(world, seed=11)
    await played.start()
    report = await played.play(ROUNDS)
    assert report.is_well, report.rows()
    assert report.rounds == ROUNDS
    assert len(report.kills) >= ROUNDS
    assert len(report.acknowledged) > ROUNDS * 100
    assert report.notes["duplicate"] > 0  # what Asana repeated was known
    assert report.answers[None] > 0  # receivers were killed while they were asked


def test_what_was_acknowledged_and_not_handled_is_lost() -> None:
    report = chaos.Report(acknowledged={"1", "2"}, handled=Counter(["1", "3"]))
    assert report.lost == {"2"}
    assert not report.is_well
    assert not chaos.Report(waiting=1).is_well


@pytest.mark.parametrize(
    "answers", [Counter({404: 1}), Counter({500: 1}), Counter({401: 1, 200: 5})], ids=str
)
def test_other_answers_than_200_and_503_are_no_success(answers: Counter[int | None]) -> None:
    assert not chaos.Report(answers=answers).is_well
    assert chaos.Report(answers=Counter({200: 1, 503: 1, None: 1})).is_well


@pytest.mark.parametrize(
    ("gids", "late"),
    [
        ([], 0),
        (["1000000001", "1000000005"], 0),
        (["1000000001", "1000000005", "1000000001", "1000000009"], 0),
        (["1000000005", "2000000001", "1000000009"], 0),
        (["1000000002", "1000000001"], 0),
        (["1000000005", "1000000001"], 1),
        (["1000000009", "1000000001", "2000000001", "1000000005"], 2),
    ],
    ids=["nothing", "in order", "repeated", "two webhooks", "two tasks", "swapped", "two late"],
)
def test_order_is_judged_by_the_first_time_an_event_of_a_task_was_handled(
    gids: list[str], late: int
) -> None:
    assert chaos.out_of_order(gids) == late
    assert chaos.Report(out_of_order=late).is_well is (late == 0)


def test_repeat_is_forgiven_only_where_a_worker_died_or_lost_its_lease() -> None:
    twice = Counter({"1": 2})
    assert not chaos.Report(handled=twice).is_well
    assert not chaos.Report(handled=twice, kills=Counter(["receiver killed"])).is_well
    assert chaos.Report(handled=twice, kills=Counter(["worker killed"])).is_well
