"""What a stream proves: decisions on what is missing, on gaps and on what is counted."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asana_webhooks import DecodeError, Event, Source, WebhookFilter
from asana_webhooks._continuity import (
    FEW,
    MAX_GAPS,
    MAX_PENDING,
    MAX_SAMPLES,
    YOUNG,
    Judgement,
    Known,
    Tally,
    Watch,
    continuity_of,
    passes,
)
from asana_webhooks._remembered import Came, came_afterwards, pack
from asana_webhooks._stream import compact, stream_event

NOON = datetime(2026, 7, 4, 12, tzinfo=UTC)
BEGUN = Watch(routes=("r",)).begun("token-0", NOON)
SOURCE = Source(webhook="7", resource="1")


def event(
    task: str = "100", *, at: float = 0.0, field: str = "completed", parent: str | None = None
) -> Event:
    """Return a change of a task, so many seconds after noon, as the stream has it."""
    shape = {
        "user": {"gid": "9", "resource_type": "user", "name": "Ada"},
        "created_at": (NOON + timedelta(seconds=at)).isoformat(timespec="milliseconds"),
        "action": "changed",
        "resource": {"gid": task, "resource_type": "task", "name": "Fix it"},
        "parent": parent and {"gid": parent, "resource_type": "project"},
        "change": {"field": field, "action": "changed"},
    }
    return stream_event(json.dumps(shape).encode(), received_at=NOON)


def after(watch: Watch, *events: Event, at: float) -> Watch:
    """Return a watch after a complete reading so many seconds after noon."""
    now = NOON + timedelta(seconds=at)
    return watch.read(events, f"token-{at:g}", now).complete(now)


def judged(watch: Watch, *delivered: Event, at: float, came: int = Came.DELIVERED) -> Judgement:
    """Judge a watch so many seconds after noon, when these events are known."""
    packed = b"".join(pack(each, came) for each in delivered)
    return watch.judge(Known(packed), NOON + timedelta(seconds=at))


def missing(judgement: Judgement) -> list[str]:
    """Return the gids of the tasks whose events are missing."""
    bodies = [json.loads(each.body) for each in judgement.missing]
    return [body["resource"]["gid"] for body in bodies]


# What is missing


def test_event_that_nobody_delivered_is_missing_once() -> None:
    watch = after(BEGUN, event("1"), event("2", at=1), at=3_600)
    judgement = judged(watch, event("1"), at=3_600)
    assert missing(judgement) == ["2"]
    assert missing(judged(judgement.watch, event("1"), at=3_600)) == []
    assert (judgement.watch.seen, judgement.watch.recovered) == (2, 1)


def test_what_is_missing_is_in_the_order_of_the_stream() -> None:
    tasks = [str(number) for number in (5, 3, 8, 1)]
    events = [event(task, at=index) for index, task in enumerate(tasks)]
    assert missing(judged(after(BEGUN, *events, at=3_600), at=3_600)) == tasks


def test_event_is_judged_when_it_is_ten_minutes_old() -> None:
    young = YOUNG.total_seconds()
    watch = after(BEGUN, event("1", at=100), at=101)
    waiting = judged(watch, at=99 + young)
    assert missing(waiting) == []
    assert waiting.watch.judged_at == NOON + timedelta(seconds=100) + YOUNG
    assert missing(judged(waiting.watch, at=100 + young)) == ["1"]


def test_event_that_is_delivered_in_its_ten_minutes_is_not_missing() -> None:
    watch = judged(after(BEGUN, event("1", at=100), at=101), at=101).watch
    watch = judged(watch, event("1", at=100), at=200).watch
    assert watch.judged_at is None
    assert missing(judged(watch, at=10_000)) == []


@pytest.mark.parametrize("came", [Came.STREAMED, Came.DOUBTFUL, Came.AFTERWARDS])
def test_event_that_was_taken_from_the_stream_is_not_missing_again(came: int) -> None:
    watch = after(BEGUN, event("1"), at=3_600)
    assert missing(judged(watch, event("1"), at=3_600, came=came)) == []


def test_event_that_a_stream_tells_twice_is_missing_once() -> None:
    watch = after(BEGUN, event("1"), at=10)
    watch = after(watch, event("1"), event("1"), at=3_600)
    assert missing(judged(watch, at=3_600)) == ["1"]
    assert watch.seen == 1


# Where webhook and stream do not say the same of one change


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(event("1", at=2.5), id="time"),
        pytest.param(event("1", at=-59), id="nearly a minute before"),
        pytest.param(event("1", parent="7"), id="parent"),
    ],
)
def test_delivered_event_that_is_nearly_equal_is_the_same_change(told: Event) -> None:
    assert missing(judged(after(BEGUN, event("1"), at=3_600), told, at=3_600)) == []


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(event("1", at=61), id="more than a minute"),
        pytest.param(event("2"), id="resource"),
        pytest.param(event("1", field="name"), id="field"),
    ],
)
def test_delivered_event_that_is_not_nearly_equal_is_another_change(told: Event) -> None:
    assert missing(judged(after(BEGUN, event("1"), at=3_600), told, at=3_600)) == ["1"]


def test_one_delivered_event_stands_for_one_of_the_stream() -> None:
    watch = after(BEGUN, event("1"), event("1", at=10), at=3_600)
    judgement = judged(watch, event("1", at=11), at=3_600)
    assert [json.loads(each.body)["created_at"] for each in judgement.missing] == [
        "2026-07-04T12:00:00.000+00:00"
    ]


def test_delivered_event_with_an_equal_key_stands_for_no_other() -> None:
    watch = after(BEGUN, event("1"), event("1", at=10), at=3_600)
    judgement = judged(watch, event("1"), at=3_600)
    assert len(judgement.missing) == 1


def test_delivered_event_stands_for_one_of_the_stream_over_readings() -> None:
    first, second, told = event("1"), event("1", at=40), event("1", at=5)
    watch = judged(after(BEGUN, first, at=1), told, at=600).watch
    watch = after(watch, second, at=641)
    assert len(judged(watch, told, at=641).missing) == 1


def test_what_is_taken_from_the_stream_stands_for_no_other_event() -> None:
    watch = after(BEGUN, event("1", at=10), at=3_600)
    assert missing(judged(watch, event("1"), at=3_600, came=Came.STREAMED)) == ["1"]
    late = Known(came_afterwards(pack(event("1"))))
    assert missing(watch.judge(late, NOON + timedelta(hours=1))) == ["1"]


def differing(count: int, *, shift: float = 2.0) -> tuple[list[Event], list[Event]]:
    """Return events of a stream, and how a webhook tells them."""
    streamed = [event(str(number), at=number) for number in range(count)]
    return streamed, [event(str(number), at=number + shift) for number in range(count)]


def test_stream_that_tells_most_changes_otherwise_proves_nothing() -> None:
    streamed, told = differing(FEW)
    before = after(BEGUN, *streamed, at=3_600)
    judgement = judged(before, *told[: FEW // 2 + 1], at=3_600)
    (gap,) = judgement.watch.gaps
    assert judgement.missing == ()
    assert judgement.watch.cursor == before.cursor
    assert (gap.reason, gap.start, gap.end) == ("disagreement", before.proven_until, None)
    assert judgement.watch.disagrees
    assert not judgement.watch.is_read
    assert re.search(
        r"task 0 at 2026-07-04 12:00:00.*same of it at 2026-07-04 12:00:02", gap.detail
    )
    assert continuity_of(judgement.watch, SOURCE).evidence == "heartbeats"
    assert not judgement.watch.without_gap(gap.id).disagrees


@pytest.mark.parametrize(
    ("count", "twins"),
    [pytest.param(FEW - 1, FEW - 1, id="few"), pytest.param(FEW, FEW // 2, id="half of them")],
)
def test_stream_is_believed_while_little_speaks_against_it(count: int, twins: int) -> None:
    streamed, told = differing(count)
    judgement = judged(after(BEGUN, *streamed, at=3_600), *told[:twins], at=3_600)
    assert len(judgement.missing) == count - twins
    assert not judgement.watch.disagrees


def test_stream_is_believed_that_agrees_in_most_changes() -> None:
    streamed, told = differing(FEW)
    agreed = [event(str(number), at=number) for number in range(100, 200)]
    judgement = judged(after(BEGUN, *streamed, *agreed, at=3_600), *told, *agreed, at=3_600)
    assert not judgement.watch.disagrees
    assert judgement.missing == ()


def test_outage_is_no_disagreement() -> None:
    streamed, _ = differing(2_000)
    judgement = judged(after(BEGUN, *streamed, at=7_200), at=7_200)
    assert len(judgement.missing) == 2_000


def test_stream_and_webhook_are_in_accord_once_keys_fit_and_none_only_nearly() -> None:
    assert not BEGUN.is_in_accord
    watch = judged(after(BEGUN, event("1"), at=3_600), event("1"), at=3_600).watch
    assert watch.is_in_accord
    watch = judged(after(watch, event("2"), at=7_200), event("2", at=1), at=7_200).watch
    assert not watch.is_in_accord


# Filters

COMPLETED = WebhookFilter(resource_type="task", action="changed", fields=["completed"])
NAMED = WebhookFilter(resource_type="task", action="changed", fields=["name"])


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        pytest.param(None, True, id="none"),
        pytest.param([], True, id="an empty list"),
        pytest.param([COMPLETED], True, id="field"),
        pytest.param([NAMED], False, id="another field"),
        pytest.param([NAMED, COMPLETED], True, id="any of several"),
        pytest.param([WebhookFilter(resource_type="story")], False, id="type"),
        pytest.param([WebhookFilter(action="added")], False, id="action"),
        pytest.param([WebhookFilter(resource_subtype="milestone")], True, id="subtype not told"),
    ],
)
def test_filters_let_pass_what_they_let_pass_at_asana(
    filters: list[WebhookFilter] | None, *, passing: bool
) -> None:
    assert passes(event(), filters) is passing


@pytest.mark.parametrize("subtype", ["milestone", "default_task"])
def test_filter_of_a_subtype_goes_by_the_subtype_that_is_told(subtype: str) -> None:
    shape = {
        "created_at": NOON.isoformat(),
        "action": "changed",
        "resource": {"gid": "1", "resource_type": "task", "resource_subtype": "milestone"},
    }
    told = stream_event(json.dumps(shape).encode(), received_at=NOON)
    filters = [WebhookFilter(resource_subtype=subtype)]
    assert passes(told, filters) is (subtype == "milestone")


def test_event_without_a_change_passes_no_filter_of_fields() -> None:
    shape = {"created_at": NOON.isoformat(), "action": "changed", "resource": {"gid": "1"}}
    told = stream_event(json.dumps(shape).encode(), received_at=NOON)
    assert not passes(told, [WebhookFilter(action="changed", fields=["name"])])


def test_event_passes_the_filters_of_its_time() -> None:
    hour = timedelta(hours=1)
    watch = BEGUN.filtered([NAMED], NOON, since=None)
    watch = watch.filtered([COMPLETED], NOON + hour, since=NOON + hour)
    before, later = event("1", at=1_800), event("2", at=5_400)
    assert missing(judged(after(watch, before, later, at=9_000), at=9_000)) == ["2"]


def test_event_near_a_change_of_filters_passes_either() -> None:
    hour = timedelta(hours=1)
    watch = BEGUN.filtered([COMPLETED], NOON, since=None)
    watch = watch.filtered([NAMED], NOON + hour, since=NOON + hour)
    near, far = event("1", at=3_605), event("2", at=3_620)
    assert missing(judged(after(watch, near, far, at=9_000), at=9_000)) == ["1"]


def test_filters_that_were_found_changed_may_have_been_there_before() -> None:
    watch = BEGUN.filtered([NAMED], NOON, since=None)
    watch = watch.filtered([COMPLETED], NOON + timedelta(hours=1), since=NOON)
    assert missing(judged(after(watch, event("1", at=1_800), at=9_000), at=9_000)) == ["1"]


def test_equal_filters_begin_no_period_and_old_ones_are_forgotten() -> None:
    watch = BEGUN.filtered(None, NOON, since=None)
    assert watch.filtered([], NOON + timedelta(hours=1), since=None) is watch
    for day in range(1, 20):
        wanted = [NAMED] if day % 2 else [COMPLETED]
        watch = watch.filtered(wanted, NOON + timedelta(days=day), since=None)
    assert len(watch.periods) <= 3


# How far it is proven, and gaps


def test_all_is_proven_until_ten_minutes_before_a_complete_reading() -> None:
    assert Watch().proven_until is None
    assert BEGUN.proven_until == NOON
    assert after(BEGUN, at=300).proven_until == NOON
    assert after(BEGUN, at=3_600).proven_until == NOON + timedelta(minutes=50)


def test_expired_token_is_a_gap_from_its_place_in_the_stream_until_now() -> None:
    watch = after(BEGUN, at=3_600)
    late = NOON + timedelta(hours=31)
    watch = watch.expired("fresh", late, "it was not read")
    (gap,) = watch.gaps
    assert (gap.start, gap.end) == (NOON + timedelta(hours=1), late)
    assert (gap.reason, gap.detail) == ("expired", "it was not read")
    assert (watch.cursor, watch.cursor_at) == ("fresh", late)


def test_what_was_read_before_the_token_expired_is_judged_all_the_same() -> None:
    watch = after(BEGUN, event("1"), at=1).expired("fresh", NOON + timedelta(hours=1), "why")
    assert missing(judged(watch, at=3_600)) == ["1"]


def test_refused_stream_is_a_gap_until_it_is_given_again() -> None:
    watch = BEGUN.with_gap("refused", NOON, None, "403")
    assert watch.with_gap("refused", NOON, None, "403") == watch
    assert watch.is_refused
    assert after(watch, at=60).gaps[0].end == NOON + timedelta(seconds=60)
    assert not after(watch, at=60).is_refused


def test_gaps_are_apart_unless_one_goes_on_from_the_other() -> None:
    hour = timedelta(hours=1)
    watch = BEGUN.with_gap("expired", NOON, NOON + hour, "one")
    longer = watch.with_gap("expired", NOON + hour, NOON + 2 * hour, "two")
    apart = watch.with_gap("expired", NOON + 2 * hour, NOON + 3 * hour, "two")
    other = watch.with_gap("refused", NOON, None, "two")
    assert [(gap.start, gap.end) for gap in longer.gaps] == [(NOON, NOON + 2 * hour)]
    assert [len(each.gaps) for each in (longer, apart, other)] == [1, 2, 2]
    assert len({gap.id for gap in apart.gaps}) == 2


def test_gaps_are_no_more_than_can_be_kept_and_none_is_left_out() -> None:
    watch = BEGUN
    for number in range(MAX_GAPS + 20):
        start = NOON + timedelta(hours=number)
        watch = watch.with_gap("expired", start, start + timedelta(minutes=1), "")
    assert len(watch.gaps) == MAX_GAPS
    assert watch.gaps[0].start == NOON


def test_gap_is_closed_by_its_id_alone() -> None:
    watch = BEGUN.with_gap("expired", NOON, NOON, "").with_gap("refused", NOON, None, "")
    first, second = watch.gaps
    assert watch.without_gap(first.id).gaps == (second,)
    assert watch.without_gap("another").gaps == (first, second)


def test_what_ended_keeps_its_gaps_alone() -> None:
    watch = after(BEGUN, event("1"), at=1).with_gap("expired", NOON, NOON, "")
    assert watch.ended() == Watch(gaps=watch.gaps)


def test_resource_without_a_stream_is_not_read() -> None:
    watch = Watch().without_stream("400: there is no stream of a workspace")
    assert not watch.is_read
    told = continuity_of(watch, SOURCE)
    assert (told.evidence, told.proven_until) == ("heartbeats", None)


def test_somebody_else_reads_until_the_time_that_was_said() -> None:
    watch = Watch(reader="a", reading_until=NOON)
    early, late = NOON - timedelta(seconds=1), NOON
    assert watch.is_read_by_another("b", early)
    assert not watch.is_read_by_another("b", late)
    assert not watch.is_read_by_another("a", early)


def test_stream_is_not_read_on_while_much_waits() -> None:
    size = len(event().raw)
    events = [event(str(number), at=number) for number in range(MAX_PENDING // size + 1)]
    watch = BEGUN.read(events, "next", NOON)
    assert watch.is_full
    assert not judged(watch, *events, at=0).watch.is_full


# What is counted


def test_dropped_events_are_those_that_never_came() -> None:
    watch = Watch(seen=200, recovered=10).counted(Tally(late=4))
    told = continuity_of(watch, SOURCE)
    assert (told.recovered, told.dropped, told.dropped_share) == (10, 6, 0.03)
    assert continuity_of(Watch(), SOURCE).dropped_share == 0.0


def test_latency_is_told_to_a_fifth() -> None:
    tally = Tally()
    for seconds in [1.0] * 98 + [60.0, 90.0]:
        tally.add(seconds)
    latency = continuity_of(Watch().counted(tally), SOURCE).latency
    assert latency is not None
    assert latency.count == 100
    assert latency.median == pytest.approx(1.0, rel=0.2)
    assert latency.p99 == pytest.approx(60.0, rel=0.2)
    assert continuity_of(Watch(), SOURCE).latency is None


@pytest.mark.parametrize("seconds", [-5.0, 0.0])
def test_latency_of_a_fast_clock_counts_as_none(seconds: float) -> None:
    tally = Tally()
    tally.add(seconds)
    latency = continuity_of(Watch().counted(tally), SOURCE).latency
    assert latency is not None
    assert latency.median == pytest.approx(0.01, abs=0.01)


def test_latest_latencies_count_most() -> None:
    watch = Watch().counted(Tally(latency={0: MAX_SAMPLES - 1, 40: 1}))
    assert watch.latency == {0: MAX_SAMPLES - 1, 40: 1}
    watch = watch.counted(Tally(latency={4: 100}))
    assert watch.latency == {0: (MAX_SAMPLES - 1) // 2, 4: 50}


def test_what_is_kept_is_counted_no_longer() -> None:
    tally = Tally(late=3, latency={0: 2, 4: 1})
    tally.take_off(Tally(late=3, latency={0: 2}))
    assert tally == Tally(latency={4: 1})
    tally.take_off(Tally(latency={4: 1}))
    assert not tally


# The text


def test_watch_is_kept_as_a_text() -> None:
    watch = after(BEGUN.filtered([NAMED], NOON, since=None), event("1", field="name"), at=60)
    watch = watch.with_gap("refused", NOON, None, "403").counted(Tally(latency={-4: 1}))
    assert Watch.decode(watch.encode()) == watch


@pytest.mark.parametrize("text", ["", "{", "[]", '{"gaps": 1}', "\ud800"])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="not the continuity"):
        Watch.decode(text)


# Events as webhooks deliver them


def test_event_is_cut_to_what_a_webhook_delivers() -> None:
    enum_value: dict[str, Any] = {"gid": "1602", "resource_type": "enum_option", "name": "High"}
    shape = {
        "user": {"gid": "1201", "resource_type": "user", "name": "Ada"},
        "created_at": "2026-07-04T10:12:05.500Z",
        "action": "changed",
        "type": "task",
        "resource": {
            "gid": "1302",
            "resource_type": "task",
            "resource_subtype": "default_task",
            "name": "Fix it",
        },
        "parent": None,
        "change": {
            "field": "custom_fields",
            "action": "changed",
            "new_value": {
                "gid": "1601",
                "resource_type": "custom_field",
                "resource_subtype": "enum",
                "name": "Priority",
                "enum_value": enum_value,
                "display_value": "High",
            },
            "removed_value": "Low",
        },
        "custom": 1,
    }
    assert json.loads(compact(json.dumps(shape).encode())) == {
        "user": {"gid": "1201", "resource_type": "user"},
        "created_at": "2026-07-04T10:12:05.500Z",
        "action": "changed",
        "type": "task",
        "resource": {"gid": "1302", "resource_type": "task", "resource_subtype": "default_task"},
        "parent": None,
        "change": {
            "field": "custom_fields",
            "action": "changed",
            "new_value": {
                "gid": "1601",
                "resource_type": "custom_field",
                "resource_subtype": "enum",
                "enum_value": {"gid": "1602", "resource_type": "enum_option"},
            },
        },
    }


def test_cut_event_has_the_key_of_a_delivered_one() -> None:
    delivered = event("1").json()
    for whose in ("user", "resource"):
        delivered[whose].pop("name", None)
    assert event("1").key == stream_event(json.dumps(delivered).encode(), received_at=NOON).key


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"text"', b"[" * 100_000, b"\xff"])
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        stream_event(raw, received_at=NOON)
