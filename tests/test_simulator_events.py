"""The log of events of the local Asana: what is kept, for whom and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asana_webhooks.simulator.events import EventLog, PublishedEvent, Stretch
from asana_webhooks.simulator.state import State


class Clock:
    """Time passes only when it is told to."""

    now = datetime(2026, 7, 1, tzinfo=UTC)

    def pass_(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(State, "now", lambda _: clock.now)
    return clock


@pytest.fixture
def log(clock: Clock) -> EventLog:
    return EventLog(State(), lambda webhook, events: None)


def happening(number: int, *seers: str) -> PublishedEvent:
    return PublishedEvent({"action": "changed", "resource": {"gid": str(number)}}, seers)


def numbers(stretch: Stretch) -> list[Any]:
    return [int(event["resource"]["gid"]) for event in stretch.events]


def test_events_are_not_kept_for_longer_than_a_day(clock: Clock, log: EventLog) -> None:
    log.publish(happening(0, "1301"))
    clock.pass_(hours=23)
    assert numbers(log.since("1301", 0)) == [0]
    clock.pass_(hours=1)
    assert log.since("1301", 0) == ([], 1, False)


def test_what_is_forgotten_of_one_resource_is_kept_of_no_other(clock: Clock, log: EventLog) -> None:
    log.publish(happening(0, "a", "b"), happening(1, "b"))
    clock.pass_(hours=12)
    log.publish(happening(2, "a"))
    clock.pass_(hours=12)
    log.publish(happening(3, "b"))
    assert [numbers(log.since(gid, 0)) for gid in "abc"] == [[2], [3], []]
    clock.pass_(hours=24)
    log.publish()
    assert (len(log._entries), len(log._seen_by)) == (0, 0)


def test_position_leads_behind_what_was_shown_whoever_saw_the_rest(log: EventLog) -> None:
    for number in range(0, 300, 2):
        log.publish(happening(number, "a"), happening(number + 1, "b"))
    first = log.since("a", 0)
    assert (len(first.events), first.more) == (100, True)
    second = log.since("a", first.position)
    assert numbers(first) + numbers(second) == [*range(0, 300, 2)]
    assert (second.position, second.more) == (log.position, False)


def test_younger_events_than_the_lag_are_not_there_yet(clock: Clock, log: EventLog) -> None:
    log.publish(happening(0, "a"))
    clock.pass_(seconds=50)
    log.publish(happening(1, "a"))
    clock.pass_(seconds=20)
    lag = timedelta(seconds=60)
    first = log.since("a", 0, lag=lag)
    assert (numbers(first), first.more) == ([0], False)
    assert numbers(log.since("a", first.position, lag=lag)) == []
    clock.pass_(seconds=40)
    assert numbers(log.since("a", first.position, lag=lag)) == [1]
