import logging

import pytest

from asana_webhooks import _logging as module
from asana_webhooks._logging import QUIET_FOR, ThrottledLogger, one_line


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(now=0.0)


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> ThrottledLogger:
    caplog.set_level(logging.DEBUG)
    return ThrottledLogger(logging.getLogger("sparse"), clock=clock)


def test_the_first_line_of_a_kind_is_written(
    log: ThrottledLogger, caplog: pytest.LogCaptureFixture
) -> None:
    log.log(logging.ERROR, "store", "answered %d: %s", 503, "full")
    assert caplog.record_tuples == [("sparse", logging.ERROR, "answered 503: full")]


def test_a_flood_of_one_kind_is_one_line_in_the_quiet_time(
    log: ThrottledLogger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        log.log(logging.INFO, "404", "no webhook here")
        clock.now += QUIET_FOR / 1001
    assert caplog.messages == ["no webhook here"]


def test_the_next_line_after_the_quiet_time_counts_what_was_left_out(
    log: ThrottledLogger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        log.log(logging.INFO, "404", "no webhook here")
    clock.now += QUIET_FOR
    log.log(logging.INFO, "404", "answered %d", 404)
    clock.now += QUIET_FOR
    log.log(logging.INFO, "404", "answered %d", 404)
    assert caplog.messages == [
        "no webhook here",
        "answered 404 (and 3 more of this kind before)",
        "answered 404",
    ]


def test_lines_that_were_left_out_do_not_make_the_quiet_time_longer(
    log: ThrottledLogger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log.log(logging.INFO, "404", "first")
    clock.now += QUIET_FOR - 0.5
    log.log(logging.INFO, "404", "left out")
    clock.now += 0.5
    log.log(logging.INFO, "404", "second")
    assert caplog.messages == ["first", "second (and 1 more of this kind before)"]


def test_kinds_do_not_silence_each_other(
    log: ThrottledLogger, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("404", "401", "404", "401"):
        log.log(logging.INFO, kind, kind)
    assert caplog.messages == ["404", "401"]


def test_a_failure_of_ours_may_bring_its_traceback(
    log: ThrottledLogger, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.log(logging.ERROR, "with", "failed", exc_info=True)
        log.log(logging.ERROR, "without", "failed")
    with_traceback, without = caplog.records
    assert with_traceback.exc_info is not None
    assert with_traceback.exc_info[0] is ZeroDivisionError
    assert not without.exc_info


def test_time_passes_by_itself_without_a_given_clock(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = ThrottledLogger(logging.getLogger("sparse"))
    log.log(logging.INFO, "404", "once")
    log.log(logging.INFO, "404", "twice")
    assert caplog.messages == ["once"]


def test_only_so_many_kinds_are_remembered_the_latest(
    log: ThrottledLogger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KINDS", 3)
    for number in range(20):
        for _ in range(2):
            log.log(logging.INFO, str(number), "a line")
        clock.now += 1.0
    assert list(log._last) == list(log._skipped) == ["17", "18", "19"]


class UnshowableError(Exception):
    def __repr__(self) -> str:
        raise SystemExit("in a repr")


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        pytest.param("as it is", "as it is", id="text"),
        pytest.param("two\nlines\x1b[31m\u2028é", "two lines [31m é", id="control characters"),
        pytest.param(ValueError("a\nb"), r"ValueError('a\nb')", id="exception"),
        pytest.param(UnshowableError(), "UnshowableError", id="exception that cannot be shown"),
        pytest.param(None, "None", id="nothing"),
        pytest.param("x" * 201, "x" * 200, id="long"),
    ],
)
def test_whatever_is_shown_is_one_short_line_of_visible_characters(
    shown: object, line: str
) -> None:
    assert one_line(shown) == line


def test_line_may_be_given_another_length() -> None:
    assert one_line("x" * 300, longest=250) == "x" * 250
