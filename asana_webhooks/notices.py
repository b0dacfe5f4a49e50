"""Notices of webhooks and accounts, so that nothing goes silent.

Each notice is a line in the log, a count, and a call of the handlers that want its kind. Most kinds
are states: each is told when it begins, and again only when it has ended meanwhile.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar, get_args

import anyio

from ._background import background_task
from ._clock import Clock
from ._logging import ThrottledLogger, one_line
from .models import Notice, NoticeKind, Route, Source, Webhook
from .router import check_handler

__all__ = ["Notice", "NoticeHandler", "NoticeKind", "Notices", "judge", "source_of"]

NoticeHandler: TypeAlias = Callable[[Notice], Coroutine[Any, Any, object]]
N = TypeVar("N", bound=NoticeHandler)

KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)

LEVELS: Mapping[NoticeKind, int] = {
    "established": logging.INFO,
    "restored": logging.INFO,
    "failing": logging.WARNING,
    "silent": logging.WARNING,
    "lost": logging.WARNING,
    "limited": logging.WARNING,
    "mangled": logging.ERROR,
    "gap": logging.ERROR,
    "unauthorized": logging.ERROR,
}

TROUBLES = frozenset({"failing", "silent", "lost"})
"""The states that end with ``restored``."""

STATES = TROUBLES | {"unauthorized", "limited"}

MAX_WAITING = 1_000
"""How many notices wait for their handlers; the oldest ones are left out, and that is logged."""

MAX_SOURCES = 10_000
"""Of so many sources it is remembered what was told, the latest of all."""

MAX_DETAIL = 1_000
"""Characters of a detail."""

MAX_QUOTED = 200
"""Characters that are quoted of an answer which failed."""

SILENT_AFTER = timedelta(hours=9)
"""The time without a heartbeat from which on a webhook is silent: Asana sends one in eight."""

GRACE = 1.0
"""Seconds that handlers have at the end, for what was told before and for what is under way."""

CANCEL_GRACE = 1.0
"""Seconds that a handler has to end when it is cancelled; then nobody waits for it."""

logger = logging.getLogger(__name__)


def source_of(route: Route) -> Source:
    """Return the source of what is told of the webhook of a route."""
    return Source(webhook=route.gid or "", resource=route.resource, account=route.account)


def judge(webhook: Webhook, route: Route, now: datetime) -> list[tuple[NoticeKind, str]]:
    """Return the troubles of a webhook, ``failing`` and ``silent``, each with its detail.

    ``webhook`` is Asana's record, with the fields of its deliveries; ``route`` is the store's, and
    ``now`` the time by the clock that notes heartbeats. None of a route that is not confirmed.
    """
    if route.state != "confirmed":
        return []
    found: dict[NoticeKind, str] = {
        "failing": _failing(webhook, route),
        "silent": _silent(route, now),
    }
    return [(kind, detail) for kind, detail in found.items() if detail]


def _failing(webhook: Webhook, route: Route) -> str:
    """Return how deliveries fail by Asana's record, '' when they do not."""
    failed_at, succeeded_at = webhook.last_failure_at, webhook.last_success_at
    failed_last = failed_at and (succeeded_at is None or failed_at > succeeded_at)
    retries, ends_at = webhook.delivery_retry_count or 0, webhook.failure_deletion_timestamp
    if not (failed_last or retries or ends_at):
        return ""
    said = (webhook.last_failure_content or "").replace(route.id, "<route>")
    parts = (
        f"deliveries fail, {retries} retries in a row" if retries else "the last delivery failed",
        f"Asana deletes the webhook at {_time(ends_at)} unless one succeeds" if ends_at else "",
        f"the last success was at {_time(succeeded_at)}" if succeeded_at else "none has succeeded",
        f"the last failure was at {_time(failed_at)}" if failed_at else "",
        f"its answer was {one_line(said, longest=MAX_QUOTED)!r}" if said else "",
    )
    return "; ".join(filter(None, parts))


def _silent(route: Route, now: datetime) -> str:
    """Return for how long no heartbeat has come, '' when that is not long."""
    since = route.heartbeat_at or route.confirmed_at or route.created_at
    if now - since < SILENT_AFTER:
        return ""
    hours = (now - since) // timedelta(hours=1)
    first = "no heartbeat has come" if route.heartbeat_at is None else "no heartbeat came"
    return f"{first} since {_time(since)}, {hours} hours ago; Asana sends one every eight hours"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class _Subscription(NamedTuple):
    handler: NoticeHandler
    name: str
    kind: NoticeKind | None


class Notices:
    """Logs and counts notices, and gives them to handlers while it is entered.

    One notice after the other is given to its handlers, in the order of their registration, each
    for ``handler_timeout`` seconds (None: no limit). What one raises is logged. ``count`` is called
    with each notice, ``now`` returns the time (aware). Who drives ``clock`` has it wait until all
    that was told is handled. It may be entered again.
    """

    def __init__(
        self,
        *,
        count: Callable[[Notice], None],
        now: Callable[[], datetime],
        clock: Clock,
        handler_timeout: float | None = 300.0,
    ) -> None:
        self._count = count
        self._now = now
        self._clock = clock
        self._timeout = handler_timeout
        self._subscriptions: list[_Subscription] = []
        self._told: dict[tuple[str, str], set[NoticeKind]] = {}  # by account and resource
        self._queue: asyncio.Queue[Notice] | None = None  # while it is entered
        self._arrived = asyncio.Event()
        self._stack = AsyncExitStack()
        self._handling: asyncio.Task[None] | None = None
        self._log = ThrottledLogger(logger)

    def on(self, kind: NoticeKind | None = None) -> Callable[[N], N]:
        """Return a decorator that registers an ``async def`` handler for a kind; None for all.

        Raises ValueError for a kind that there is not, TypeError for what is no kind, or no
        handler.
        """
        if kind is not None:
            _check_kind(kind)

        def register(handler: N) -> N:
            name = check_handler(handler, "the notice")
            self._subscriptions.append(_Subscription(handler, name, kind))
            return handler

        return register

    def tell(
        self,
        kind: NoticeKind,
        source: Source,
        detail: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> None:
        """Tell it, unless it is a state that was told of this source's resource and goes on.

        ``restored`` is told only when ``failing``, ``silent`` or ``lost`` was. ``detail`` is made
        one line and cut.
        """
        if not self._is_news(kind, source):
            return
        notice = Notice(
            kind=kind,
            source=source,
            at=self._now(),
            detail=one_line(detail, longest=MAX_DETAIL),
            start=start,
            end=end,
        )
        logger.log(LEVELS[kind], "%s: %s: %s", _shown(source), kind, notice.detail)
        self._count(notice)
        self._put(notice)

    def mangled(self, route: Route, detail: str) -> None:
        """Tell that something for a confirmed route was altered on its way."""
        self.tell("mangled", source_of(route), detail)

    def limited(self, account: str, detail: str) -> None:
        """Tell that calls of an account wait long for their turn; '' when they do no longer."""
        source = Source(webhook="", resource="", account=account)
        if detail:
            self.tell("limited", source, detail)
        else:
            self.over("limited", source)

    def over(self, kind: NoticeKind, source: Source) -> None:
        """Note that a state is over without a word, so that it is told when it begins again."""
        self._told.get((source.account, source.resource), set()).discard(kind)

    def is_handling(self) -> bool:
        """Return whether a handler of notices asks."""
        return self._handling is not None and asyncio.current_task() is self._handling

    def _is_news(self, kind: NoticeKind, source: Source) -> bool:
        place = source.account, source.resource
        told = self._told.pop(place, set())
        is_news = kind not in told
        if kind == "restored":
            is_news = not told.isdisjoint(TROUBLES)
            told -= TROUBLES
        elif kind in STATES:
            told.add(kind)
        if told:
            self._told[place] = told  # the latest is the last of all
        if len(self._told) > MAX_SOURCES:
            del self._told[next(iter(self._told))]
        return is_news

    def _put(self, notice: Notice) -> None:
        if self._queue is None or not self._wanting(notice):
            return
        if self._queue.full():
            self._queue.get_nowait()
            self._queue.task_done()
            self._log.log(logging.ERROR, "full", "a notice is left out: its handlers are too slow")
        self._queue.put_nowait(notice)
        self._arrived.set()

    def _wanting(self, notice: Notice) -> list[_Subscription]:
        return [each for each in self._subscriptions if each.kind in (None, notice.kind)]

    # Running the handlers

    async def __aenter__(self) -> Self:
        """Begin to give notices to the handlers."""
        self._queue, self._arrived = asyncio.Queue(MAX_WAITING), asyncio.Event()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(background_task(self._run(self._queue), "notices"))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the handlers a second for what was told before, then end them."""
        assert self._queue is not None  # noqa: S101 - it was entered; for the type checker
        try:
            with anyio.move_on_after(GRACE, shield=True):
                await self._queue.join()
        finally:
            self._queue = None
            await self._stack.aclose()

    async def _run(self, queue: asyncio.Queue[Notice]) -> None:
        while True:
            await self._clock.sleep(math.inf, unless=self._arrived)
            self._arrived.clear()
            while not queue.empty():
                notice = queue.get_nowait()
                for subscription in self._wanting(notice):
                    await self._handle(subscription, notice)
                queue.task_done()

    async def _handle(self, subscription: _Subscription, notice: Notice) -> None:
        """Run a handler in a task of its own, for its time."""
        name = subscription.name
        task = asyncio.create_task(_call(subscription, notice), name=f"asana-webhooks {name}")
        self._handling = task
        try:
            done, _ = await asyncio.wait([task], timeout=self._timeout)
            if not done:
                text = "handler %s is cancelled: it did not end within %g s of a notice"
                logger.warning(text, name, self._timeout)
        finally:
            await _end(task, name)
            self._handling = None


async def _call(subscription: _Subscription, notice: Notice) -> None:
    try:
        await subscription.handler(notice)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException:  # SystemExit would end the event loop
        logger.exception("handler %s failed with a notice", subscription.name)


async def _end(task: asyncio.Task[None], name: str) -> None:
    """Cancel a handler that has not ended, and wait for it a short time."""
    if task.done():
        return
    task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([task], timeout=CANCEL_GRACE)
    if not task.done():
        text = "handler %s goes on although it was cancelled; nobody waits for it any longer"
        logger.warning(text, name)


def _check_kind(kind: object) -> None:
    if callable(kind):
        msg = "write on_notice(), with parentheses"
        raise TypeError(msg)
    if not isinstance(kind, str):
        msg = f"a notice's kind is a text, or None for all, not {type(kind).__name__}"
        raise TypeError(msg)
    if kind in KINDS:
        return
    near = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"
    msg = f"there is no notice {one_line(kind, longest=40)!r}; {hint}"
    raise ValueError(msg)


def _shown(source: Source) -> str:
    """Return whose a notice is, for a log line."""
    named = (
        f"webhook {source.webhook}" if source.webhook else "",
        f"resource {source.resource}" if source.resource else "",
        f"account {one_line(source.account)!r}" if source.account else "",
    )
    return ", ".join(filter(None, named)) or "Asana"
