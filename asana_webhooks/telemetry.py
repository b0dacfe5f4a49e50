"""One observer of requests, deliveries, attempts and notices; the counts of ``stats()``.

An endpoint and an inbox tell one ``Telemetry`` what happens. Whatever wants to know inherits from
it: the counters, OpenTelemetry (``otel``), the command line's recorder. ``Together`` passes all on
to several.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import msgspec

from ._logging import ThrottledLogger
from .models import BudgetState, Continuity, Counts, Delivery, Event, Notice, NoticeKind, Route
from .protocol import Request, Response

__all__ = ["BudgetState", "Counters", "Outcome", "Stats", "Telemetry", "Together", "WebhookStats"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Outcome: TypeAlias = Literal["stored", "duplicate", "handled", "retried", "dead"]
"""The fate of a delivery. One that is dead was stored before, unless nobody could read it."""

MAX_ROUTES = 10_000
"""Of so many webhooks the time of the last delivery is remembered, the latest of all."""

_NOTHING = nullcontext()


class Telemetry:
    """Told of each request, of what becomes of deliveries, and of each attempt to handle one.

    It does nothing; inherit from it, and override what you want to know. What a method raises is
    logged, and changes no answer and no attempt; an exception that passes is not its to end. What a
    request or a delivery holds is not to be passed on: secrets, signatures, routes, bodies.
    """

    def receiving(self, request: Request) -> AbstractContextManager[object]:
        """Surround the work on one request; its body is not read yet."""
        return _NOTHING

    def answered(self, response: Response) -> None:
        """Note inside ``receiving`` how the request is answered; no reason is success."""

    def traceparent(self) -> str:
        """Return inside ``receiving`` the ``traceparent`` to be kept with a delivery, or ''."""
        return ""

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        """Note what became of a delivery, and why it is dead; when received, in ``receiving``."""

    def unwanted(self, event: Event) -> None:
        """Note that no handler wants an event, which counts as handled."""

    def duplicate(self, event: Event) -> None:
        """Note that an event is known already, and is not handed over again."""

    def failed(self, event: Event, handler: str) -> None:
        """Note that a handler failed with an event; ``handler`` is its name."""

    def noticed(self, notice: Notice) -> None:
        """Note a word about a webhook or an account."""

    def recovered(self, count: int) -> None:
        """Note that so many events, which were not delivered, were taken from the events stream."""

    def processing(self, delivery: Delivery, event: Event) -> AbstractContextManager[object]:
        """Surround one attempt to handle an event; an exception that passes means it failed."""
        return _NOTHING

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Ask for a snapshot now and then, until cancelled."""


class Together(Telemetry):
    """Passes on all that it is told; the trace is that of the first who has one.

    What an observer raises is logged, but for KeyboardInterrupt, and the others are told all the
    same.
    """

    def __init__(self, *observers: Telemetry) -> None:
        self._observers = observers
        self._log = ThrottledLogger(logger)

    def receiving(self, request: Request) -> AbstractContextManager[object]:
        """Surround the work on one request."""
        return self._surround(partial(each.receiving, request) for each in self._observers)

    def answered(self, response: Response) -> None:
        """Note how the request is answered."""
        for observer in self._observers:
            self._tell(observer.answered, response)

    def traceparent(self) -> str:
        """Return the first ``traceparent`` that there is, or ''."""
        found = (self._tell(observer.traceparent) for observer in self._observers)
        return next(filter(None, found), "")

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        """Note what became of a delivery."""
        for observer in self._observers:
            self._tell(observer.became, delivery, outcome, reason)

    def unwanted(self, event: Event) -> None:
        """Note that no handler wants an event."""
        for observer in self._observers:
            self._tell(observer.unwanted, event)

    def duplicate(self, event: Event) -> None:
        """Note that an event is known already."""
        for observer in self._observers:
            self._tell(observer.duplicate, event)

    def failed(self, event: Event, handler: str) -> None:
        """Note that a handler failed with an event."""
        for observer in self._observers:
            self._tell(observer.failed, event, handler)

    def noticed(self, notice: Notice) -> None:
        """Note a word about a webhook or an account."""
        for observer in self._observers:
            self._tell(observer.noticed, notice)

    def recovered(self, count: int) -> None:
        """Note that events were taken from the stream."""
        for observer in self._observers:
            self._tell(observer.recovered, count)

    def processing(self, delivery: Delivery, event: Event) -> AbstractContextManager[object]:
        """Surround one attempt to handle an event."""
        return self._surround(partial(each.processing, delivery, event) for each in self._observers)

    @contextmanager
    def _surround(
        self, contexts: Iterable[Callable[[], AbstractContextManager[object]]]
    ) -> Iterator[None]:
        entered = [self._tell(_enter, make) for make in contexts]
        try:
            yield
        except BaseException as error:
            self._leave(entered, error)
            raise
        self._leave(entered, None)

    def _leave(
        self,
        entered: Sequence[AbstractContextManager[object] | None],
        error: BaseException | None,
    ) -> None:
        for context in reversed(entered):
            if context is not None:
                self._tell(_leave, context, error)

    def _tell(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return what the method returns, None when it raises, which is logged."""
        try:
            return method(*args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - of a user's code, which may raise whatever there is
            self._log.log(logging.ERROR, "raised", "the telemetry raised", exc_info=True)
            return None

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Run what each does with snapshots, side by side. Raises the first error of one."""
        import anyio  # only where a client runs, which has it anyway

        try:
            async with anyio.create_task_group() as tasks:
                for observer in self._observers:
                    tasks.start_soon(observer.watch, stats)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _enter(make: Callable[[], AbstractContextManager[object]]) -> AbstractContextManager[object]:
    context = make()
    context.__enter__()
    return context


def _leave(context: AbstractContextManager[object], error: BaseException | None) -> None:
    """Leave the context, whether it would end the error or let it pass."""
    try:
        if error is None:
            context.__exit__(None, None, None)
        else:
            context.__exit__(type(error), error, error.__traceback__)
    except BaseException as raised:
        if raised is not error:
            raise


class WebhookStats(msgspec.Struct, frozen=True, kw_only=True):
    """The silence of one webhook, in seconds.

    ``gid`` is None until the webhook is established, ``account`` is empty without accounts.
    ``since_delivery`` is of deliveries with
    events that this process received, None before the first; ``since_heartbeat`` is of heartbeats
    at whatever process, which Asana sends at the handshake and every eight hours: one that is
    older than that is a webhook to look after. ``since_proven`` is the age of the last event of
    which it is proven that none is missing, but for gaps; None where nothing is proven.
    """

    gid: str | None
    resource: str
    account: str = ""
    since_delivery: float | None
    since_heartbeat: float | None
    since_proven: float | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the inbox, which processes share, and of what this process has done.

    ``waiting`` and ``dead_letters`` are how many there are in the store, ``oldest_age`` is in
    seconds, None when nothing is in line. Counted since this process began: deliveries that were
    ``stored``; ``duplicates``, known already and answered 200; ``handled``; failed attempts that
    are ``retried``; deliveries that became ``dead`` letters; events ``unwanted`` by any handler,
    which count as handled; ``duplicate_events``, which are known already and are not handed over
    again; ``recovered`` events, taken from the events stream; ``failures``, each of one handler
    with one event; ``notices``, by kind; requests ``refused``, by reason. ``gaps`` is how many are
    open, and ``dropped`` how many events Asana never delivered, since the webhooks were made.
    ``budgets`` are of the tokens that this process makes calls with, in no order.
    """

    waiting: int
    oldest_age: float | None
    dead_letters: int
    stored: int
    duplicates: int
    handled: int
    retried: int
    dead: int
    unwanted: int
    duplicate_events: int
    recovered: int
    dropped: int
    gaps: int
    failures: int
    notices: dict[NoticeKind, int]
    refused: dict[str, int]
    webhooks: tuple[WebhookStats, ...]
    budgets: tuple[BudgetState, ...] = ()


class Counters(Telemetry):
    """Counts what a client's parts tell of, for a snapshot."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.unwanted_events: int = 0
        self.duplicate_events: int = 0
        self.recovered_events: int = 0
        self.failures: int = 0
        self.notices: Counter[NoticeKind] = Counter()
        self.refused: Counter[str] = Counter()
        self._delivered: dict[str, float] = {}

    def answered(self, response: Response) -> None:
        """Count a refusal by its reason."""
        if response.reason:
            self.refused[response.reason] += 1

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        """Count what became of a delivery, and keep when its webhook delivered last."""
        self.outcomes[outcome] += 1
        if outcome in ("stored", "duplicate"):
            self._delivered.pop(delivery.route, None)  # the latest is the last of all
            self._delivered[delivery.route] = time.monotonic()
            if len(self._delivered) > MAX_ROUTES:
                del self._delivered[next(iter(self._delivered))]

    def unwanted(self, event: Event) -> None:
        """Count an event that no handler wants."""
        self.unwanted_events += 1

    def duplicate(self, event: Event) -> None:
        """Count an event that is known already."""
        self.duplicate_events += 1

    def failed(self, event: Event, handler: str) -> None:
        """Count a handler's failure with an event."""
        self.failures += 1

    def noticed(self, notice: Notice) -> None:
        """Count a notice by its kind."""
        self.notices[notice.kind] += 1

    def recovered(self, count: int) -> None:
        """Count events that were taken from the stream."""
        self.recovered_events += count

    def snapshot(
        self,
        counts: Counts,
        routes: Iterable[Route],
        continuity: Sequence[Continuity] = (),
        budgets: Iterable[BudgetState] = (),
    ) -> Stats:
        """Return what is counted here together with what a store has told."""
        now = datetime.now(UTC)
        of_scope = {(each.source.account, each.source.resource): each for each in continuity}
        proven = {each.source.webhook: each.proven_until for each in continuity}
        return Stats(
            waiting=counts.waiting,
            oldest_age=_age(counts.oldest_at, now),
            dead_letters=counts.dead_letters,
            stored=self.outcomes["stored"],
            duplicates=self.outcomes["duplicate"],
            handled=self.outcomes["handled"],
            retried=self.outcomes["retried"],
            dead=self.outcomes["dead"],
            unwanted=self.unwanted_events,
            duplicate_events=self.duplicate_events,
            recovered=self.recovered_events,
            dropped=sum(each.dropped for each in of_scope.values()),
            gaps=sum(len(each.gaps) for each in of_scope.values()),
            failures=self.failures,
            notices=dict(self.notices),
            refused=dict(self.refused),
            webhooks=tuple(
                self._silence(route, now, proven.get(route.gid or "")) for route in routes
            ),
            budgets=tuple(budgets),
        )

    def _silence(self, route: Route, now: datetime, proven_until: datetime | None) -> WebhookStats:
        delivered = self._delivered.get(route.id)
        return WebhookStats(
            gid=route.gid,
            resource=route.resource,
            account=route.account,
            since_delivery=None if delivered is None else time.monotonic() - delivered,
            since_heartbeat=_age(route.heartbeat_at, now),
            since_proven=_age(proven_until, now),
        )


def _age(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())
