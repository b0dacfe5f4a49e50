"""Events that handlers failed with: when one is tried again, and when it is a dead letter."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from ._handlers import HandlerError
from ._logging import one_line
from ._options import DELAY, check_options
from .models import Event
from .router import GiveUp, TryAgain

__all__ = ["BackOff", "Verdict", "described", "missing", "reason_of"]

MAX_REASON = 1_000
"""Characters of a dead letter's reason."""


class Verdict(NamedTuple):
    """The handlers that are given the event again after ``delay`` seconds, and those that are not.

    ``attempts`` is how often it was tried.
    """

    again: tuple[HandlerError, ...]
    dead: tuple[HandlerError, ...]
    attempts: int
    delay: float


class BackOff(NamedTuple):
    """The number of tries of an event, and the seconds between them, which double."""

    max_attempts: int
    first_delay: float
    longest_delay: float

    def judge(self, failures: Sequence[HandlerError], attempts: int) -> Verdict:
        """Return what becomes of an event that was tried so often, and failed in these handlers.

        The delay is the longest that one of them asks for.
        """
        is_last = attempts >= self.max_attempts
        dead = tuple(each for each in failures if is_last or isinstance(each.__cause__, GiveUp))
        again = tuple(each for each in failures if each not in dead)
        delays = [self._delay_of(each, attempts) for each in again]
        return Verdict(again, dead, attempts, max(delays, default=0.0))

    def _delay_of(self, failure: HandlerError, attempts: int) -> float:
        cause = failure.__cause__
        if isinstance(cause, TryAgain):
            with contextlib.suppress(TypeError, ValueError):  # of a class of the program's own
                check_options({"after": DELAY}, {"after": cause.after})
                return cause.after
        return self.delay(attempts)

    def delay(self, attempts: int) -> float:
        """Return for how many seconds to wait after so many attempts."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempts - 1, 60))
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret


def missing(handler: str) -> HandlerError:
    """Return the failure of a handler that an event waits for, and that there is no more."""
    failure = HandlerError(handler)
    failure.__cause__ = GiveUp("no handler of this name is registered any more")
    return failure


def described(event: Event) -> str:
    """Return one line that names an event: its key, its action, and its resource."""
    resource = event.resource
    what = f"{event.action} {resource.resource_type or 'resource'} {resource.gid}"
    return f"event {event.key} ({one_line(what, longest=100)})"


def reason_of(event: Event, verdict: Verdict) -> str:
    """Return one line that says why an event is a dead letter."""
    each = "; ".join(_reason_of(failure, verdict.attempts) for failure in verdict.dead)
    return one_line(f"{described(event)}: {each}", longest=MAX_REASON)


def _reason_of(failure: HandlerError, attempts: int) -> str:
    cause = failure.__cause__
    if isinstance(cause, GiveUp):
        return f"handler {failure.handler} gave up: {one_line(cause.reason)}"
    times = f"{attempts} time{'s' if attempts > 1 else ''}"
    return f"handler {failure.handler} failed {times}: {one_line(cause)}"
