"""The guard against two programs that answer each other."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import force_setattr

from asana_webhooks import Event
from asana_webhooks._ping_pong import FLIPS, MAX_FIELDS, OURSELVES, PAUSE, WITHIN, PingPong
from asana_webhooks.testing import make_event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> PingPong:
    return PingPong(clock=clock)


def event(
    second: float, user: str | None = None, *, gid: str = "5", field: str = "completed"
) -> Event:
    """Return a change of a field: an echo without a user."""
    made = make_event(
        field=field,
        gid=gid,
        created_at=NOON + timedelta(seconds=second),
        user={"gid": user or "8", "resource_type": "user"},
    )
    force_setattr(made, "echo", user is None)
    return made


def play(guard: PingPong, flips: int, *, step: float = 1.0) -> list[float]:
    """Have this program and another one change a field in turn; return the pauses."""
    return [guard.note(event(at * step, None if at % 2 else "9")) for at in range(flips + 1)]


def test_pause_comes_with_the_flip_that_is_one_too_many(
    guard: PingPong, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert play(guard, FLIPS) == [0.0] * FLIPS + [PAUSE]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert OURSELVES in record.message
    assert "user 9" in record.message
    assert "'completed' of 'task' 5" in record.message
    assert guard.pause_of(event(0, "9", field="name")) == PAUSE
    clock.now += PAUSE - 1
    assert guard.pause_of(event(0)) == 1.0
    clock.now += 1
    assert guard.pause_of(event(0)) == 0.0


def test_what_the_programs_first_write_answers_is_counted(guard: PingPong) -> None:
    pauses = [guard.note(event(at, "9" if at % 2 else None)) for at in range(FLIPS)]
    assert pauses == [0.0] * (FLIPS - 1) + [PAUSE]


def test_other_resources_are_not_paused(guard: PingPong) -> None:
    play(guard, FLIPS)
    assert guard.pause_of(event(0, gid="6")) == 0.0


def test_after_a_pause_it_is_counted_anew(guard: PingPong, clock: Clock) -> None:
    play(guard, FLIPS)
    clock.now += PAUSE
    assert not any(guard.note(event(100 + at, None if at % 2 else "9")) for at in range(FLIPS))


def test_slow_exchange_is_none(guard: PingPong) -> None:
    step = WITHIN.total_seconds() / (FLIPS - 1)
    assert not any(play(guard, 10 * FLIPS, step=step))


def test_program_that_writes_alone_is_never_paused(guard: PingPong) -> None:
    assert not any(guard.note(event(at / 10)) for at in range(100))


def test_people_who_answer_each_other_are_not_the_programs_matter(guard: PingPong) -> None:
    assert not any(guard.note(event(at / 10, "9" if at % 2 else "10")) for at in range(100))


def test_several_others_are_all_named(guard: PingPong, caplog: pytest.LogCaptureFixture) -> None:
    for at in range(FLIPS + 2):
        guard.note(event(at, None if at % 2 else str(9 + at % 3)))
    for user in ("user 9", "user 10", "user 11"):
        assert user in caplog.text


def test_change_that_two_webhooks_tell_counts_once(guard: PingPong) -> None:
    for at in range(FLIPS):
        told = event(at, None if at % 2 else "9")
        assert guard.note(told) == 0.0
        assert guard.note(told) == 0.0
    earlier = [event(at, None if at % 2 else "9") for at in range(FLIPS)]
    assert not any(map(guard.note, earlier))


def test_fields_are_counted_each_for_itself(guard: PingPong) -> None:
    for at in range(FLIPS):
        for field in ("completed", "name"):
            assert guard.note(event(at, None if at % 2 else "9", field=field)) == 0.0


def test_places_go_to_and_fro_too(guard: PingPong) -> None:
    pauses = []
    for at in range(FLIPS + 1):
        moved = make_event(
            action="added" if at % 3 else "removed",
            gid="5",
            parent={"gid": str(at), "resource_type": "section"},
            created_at=NOON + timedelta(seconds=at),
            user=None,
        )
        force_setattr(moved, "echo", bool(at % 2))
        pauses.append(guard.note(moved))
    assert pauses[-1] == PAUSE


@pytest.mark.parametrize(
    "other",
    [
        make_event(action="deleted", gid="5"),
        make_event(action="added", gid="5"),
        make_event(gid="5"),
        make_event(gid="5", change={"action": "changed"}),
    ],
    ids=["deleted", "no parent", "no change", "no field"],
)
def test_what_cannot_go_to_and_fro_is_not_counted(guard: PingPong, other: Event) -> None:
    for _ in range(2 * FLIPS):
        assert guard.note(other) == 0.0


def test_what_is_known_of_fields_is_bounded(guard: PingPong) -> None:
    for number in range(MAX_FIELDS + 10):
        guard.note(event(0, "9", gid=str(number)))
    assert len(guard._changes) == MAX_FIELDS
