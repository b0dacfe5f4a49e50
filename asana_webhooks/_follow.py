"""Projects that are followed: a webhook on each project of a workspace, a team or a portfolio.

A list shows which there are, and events of the container which ones came, changed or went. What a
list lacks is asked for before its webhook is left: pages shift while projects come and go. The
store keeps which webhooks are there for a follow alone, so that a start takes lists only, and what
a program keeps by itself stays.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ._clock import Clock
from ._continuity import scope_of
from ._desired import MAX_WEBHOOKS, DesiredWebhooks, WantedFilters
from ._logging import one_line
from ._options import is_async
from ._upkeep import Upkeep
from ._vocabulary import warn_about_project_field
from .api import WebhooksApi
from .errors import (
    AsanaWebhooksError,
    BadRequestError,
    EstablishmentError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    StoreError,
)
from .models import Event, State, WebhookFilter
from .router import Router
from .stores import Store

__all__ = ["PROJECT_FIELDS", "Follows", "Where", "check_where"]

Where: TypeAlias = Mapping[str, object] | Callable[[dict[str, Any]], object]
"""The projects that are wanted: fields and their values, or a function of Asana's record."""

PROJECT_FIELDS = (
    *("name", "archived", "completed", "color", "created_at", "modified_at", "start_on", "due_on"),
    *("privacy_setting", "owner", "team", "workspace"),
)
"""The fields of a project that it is chosen by, besides those that a mapping names."""

RECORDS = ("owner", "team", "workspace")
"""Those of them that are records themselves, of which a mapping compares a field."""

KINDS = {"workspaces": "projects", "teams": "projects", "portfolios": "items"}
"""The kinds of containers, as paths have them, and the list of each."""

CONTAINER_FILTERS = tuple(
    WebhookFilter(resource_type="project", action=action)
    for action in ("added", "changed", "removed", "deleted", "undeleted")
)
"""The filters of a container's own webhook; Asana wants some, and takes no others."""

HANDLER = "asana_webhooks:follow"
"""The name of the handler that is told of a container's events."""

STATE = "follow-"

SETTLE = 1.0
"""Seconds that events of a container are gathered for, before its projects are looked at."""

FEW = 20
"""Up to so many projects that changed are asked for one by one; else all of them are listed."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 600.0
"""Seconds before it is tried again after a failure, which double."""

REPORT_EVERY = 60.0
"""Seconds between two words about how far it has come."""

REFUSALS = (BadRequestError, NotFoundError, PermissionDeniedError)

_NO_NAME = re.compile(r"[^A-Za-z0-9_.]")

logger = logging.getLogger(__name__)


def check_where(where: object) -> None:
    """Raise TypeError, or ValueError, for what does not choose projects.

    The name of a field that looks misspelt is a UserWarning.
    """
    if is_async(where):
        msg = "where must be a plain function, not an async def: fetch what it needs before"
        raise TypeError(msg)
    if where is None or callable(where):
        return
    if not isinstance(where, Mapping):
        msg = f"where must be a mapping or a function, not {type(where).__name__}"
        raise TypeError(msg)
    for name, value in where.items():
        if not isinstance(name, str) or not name or _NO_NAME.search(name):
            msg = "where maps names of a project's fields, as 'archived' or 'team.gid', to values"
            raise ValueError(msg)
        if name in RECORDS and isinstance(value, str | int):
            msg = f"where compares {name!r}, a record, with {value!r}; did you mean '{name}.gid'?"
            raise ValueError(msg)
        if name.endswith("gid") and isinstance(value, int):
            msg = f"where: {name!r} is a text of digits, as in '1204619', not a number"
            raise ValueError(msg)
        warn_about_project_field(name.partition(".")[0])


class _Kept(msgspec.Struct, frozen=True):
    """The state of a follow: the kind of its container, and what has a webhook for it alone."""

    kind: str = ""
    held: tuple[str, ...] = ()


class _Wish(NamedTuple):
    """The projects that are wanted, and the webhooks that they are to have."""

    where: Where | None
    filters: WantedFilters
    timeout: float

    def fits(self, project: dict[str, Any]) -> bool:
        """Return whether a project is wanted. Raises what a function of the program raises."""
        if self.where is None:
            return True
        if not isinstance(self.where, Mapping):
            return bool(self.where(project))
        return all(_value(project, name) == value for name, value in self.where.items())

    @property
    def fields(self) -> list[str]:
        """The fields that projects are to be listed with."""
        named = self.where if isinstance(self.where, Mapping) else ()
        return list(dict.fromkeys((*PROJECT_FIELDS, "resource_type", *named)))


def _value(record: Any, name: str) -> object:
    for part in name.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


class Follows:
    """The containers that an account follows.

    Each is listed when it begins and every ``interval`` seconds, None: when it begins. ``on_wish``
    is called when there is something to do.
    """

    def __init__(
        self,
        account: str,
        api: WebhooksApi,
        store: Store,
        clock: Clock,
        *,
        desired: DesiredWebhooks,
        upkeep: Upkeep,
        router: Router,
        interval: float | None,
        on_wish: Callable[[], None],
    ) -> None:
        self.account = account
        self.api = api
        self.store = store
        self.clock = clock
        self.desired = desired
        self.upkeep = upkeep
        self.router = router
        self.interval = math.inf if interval is None else interval
        self._on_wish = on_wish
        self._follows: dict[str, _Follow] = {}
        self._tasks: asyncio.TaskGroup | None = None  # while they run

    def __bool__(self) -> bool:
        return bool(self._follows)

    def follow(
        self, container: str, *, where: Where | None, filters: WantedFilters, timeout: float
    ) -> None:
        """Have a webhook on each project of the container that is wanted, from now on."""
        wish = _Wish(where, filters, timeout)
        follow = self._follows.get(container)
        if follow is None:
            follow = self._follows[container] = _Follow(self, container, wish)
            if self._tasks is not None:
                follow.start(self._tasks)
        else:
            follow.change(wish)
        self._on_wish()

    async def end(self, container: str) -> bool:
        """Follow a container no longer, and leave what was there for it; False if it is not.

        Raises StoreError.
        """
        follow = self._follows.pop(container, None) or _Follow(
            self, container, _Wish(None, None, 60.0)
        )
        return await follow.end()

    def forget(self, container: str | None = None) -> None:
        """Follow one container no longer, None for all, and change nothing of what was made."""
        for gid in [*self._follows] if container is None else [container]:
            self._follows.pop(gid).stop()

    def begin(self) -> None:
        """Have nothing count as listed that was in a run before."""
        for follow in self._follows.values():
            follow.begin()

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Follow from now on, in tasks of this group; what is held is wanted when this returns."""
        for follow in list(self._follows.values()):
            await follow.load_surely()
        self._tasks = tasks
        for follow in self._follows.values():
            follow.start(tasks)

    def end_run(self) -> None:
        """Note that the tasks have ended."""
        self._tasks = None

    async def listed(self) -> None:
        """Return when all of them were listed once."""
        for follow in list(self._follows.values()):
            await follow.is_listed.wait()

    def problems(self) -> list[str]:
        """Return why projects have no webhook, a line for each container that has trouble."""
        return [
            f"{follow.container}: {follow.problem}"
            for follow in self._follows.values()
            if follow.problem
        ]

    def pending(self) -> list[str]:
        """Return the containers that were not listed, one line each."""
        return [
            f"{follow.container}: its projects were not listed yet"
            for follow in self._follows.values()
            if not (follow.problem or follow.is_listed.is_set())
        ]

    def progress(self) -> tuple[int, int]:
        """Return how many of the projects that are followed have their webhook, and of how many."""
        projects = {gid for follow in self._follows.values() for gid in follow.wanted}
        return self.desired.count_established(projects), len(projects)


class _Follow:
    """One container: its projects that are wanted, and what was made for it alone."""

    def __init__(self, follows: Follows, container: str, wish: _Wish) -> None:
        self.container = container
        self.wanted: set[str] = set()
        self.problem = ""
        self._is_empty = False
        self.is_listed = asyncio.Event()
        self._follows = follows
        self._desired = follows.desired
        self._clock = follows.clock
        self._wish = wish
        self._kept = _Kept()
        self._held: set[str] = set()
        self._is_loaded = False
        self._version = 0
        self._list_at = -math.inf  # by the clock
        self._touched: dict[str, float] = {}  # projects of which events came, and when
        self._failures = 0
        self._until = -math.inf  # when it is tried again
        self._changed = asyncio.Event()
        self._has_news = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    # What is wanted

    def begin(self) -> None:
        """Be as new: it may be run again, in another event loop too."""
        self.is_listed, self._changed, self._has_news = (asyncio.Event() for _ in range(3))
        self._list_at = self._until = -math.inf
        self._is_loaded = False

    def change(self, wish: _Wish) -> None:
        """Want other projects of it, or other webhooks."""
        self._wish = wish
        self._is_empty = False
        self._list_at = self._until = -math.inf
        self.is_listed.clear()
        self._changed.set()
        self._want(gid for gid in self.wanted if self._desired.is_wanted(gid))

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Follow the container in tasks of this group."""
        name = f"asana-webhooks following {self.container}"
        self._running = [
            tasks.create_task(self._run(), name=name),
            tasks.create_task(self._report(), name=f"{name}, its report"),
        ]
        for task in self._running:
            self._clock.follow(task)

    def stop(self) -> None:
        """End its tasks, and what it does with events."""
        for task in self._running:
            task.cancel()
        self.is_listed.set()  # nobody needs to wait for that any longer
        self._follows.router.end_diversion(self._follows.account, self.container)

    async def end(self) -> bool:
        """Leave all that was made for this container alone; False when nothing was. See Follows."""
        self.stop()
        if self._running:
            await asyncio.wait(self._running)
        await self._load()
        if not (self._version or self._running):
            return False
        await self._desired.unfollow([*self._held, self.container], self.container)
        self._release(self.wanted - self._held)
        while self._version and not await self._follows.store.drop_state(
            self._scope, self._version
        ):
            await self._load()
        return True

    def _release(self, projects: Iterable[str]) -> None:
        """Want no webhook of these any longer, and leave none."""
        for gid in projects:
            self._desired.release(gid, self.container)

    def _want(self, projects: Iterable[str]) -> None:
        for gid in projects:
            self._desired.follow(
                gid,
                follower=self.container,
                filters=self._wish.filters,
                timeout=self._wish.timeout,
            )

    # What the store keeps

    @property
    def _scope(self) -> str:
        return scope_of(self._follows.account, f"{STATE}{self.container}")

    async def load_surely(self) -> None:
        """Want what the store shows to be held, however long that takes to be read."""
        pause = FIRST_PAUSE
        while not self._is_loaded:
            try:
                await self._load()
            except StoreError as error:
                logger.warning("what is followed in %s cannot be read: %s", self.container, error)
                await self._clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._want(self._held)

    async def _load(self) -> None:
        state = await self._follows.store.get_state(self._scope)
        self._version, self._kept = 0, _Kept()
        if state is not None:
            self._version = state.version
            try:
                self._kept = msgspec.json.decode(state.text, type=_Kept)
            except msgspec.DecodeError:
                text = "what is held for %s was damaged in the store: its webhooks are no follow's"
                logger.error(text, self.container)
        self._held = set(self._kept.held)
        self._is_loaded = True

    async def _keep(
        self, *, kind: str = "", more: Collection[str] = (), less: Collection[str] = ()
    ) -> None:
        """Keep that more, or less, is held; another process may have changed it meanwhile."""
        while True:
            held = (self._held | set(more)) - set(less)
            kept = _Kept(kind or self._kept.kind, tuple(sorted(held)))
            if self._version and kept == self._kept:
                return
            text = msgspec.json.encode(kept).decode()
            state = State(scope=self._scope, version=self._version, text=text)
            if await self._follows.store.put_state(state):
                self._kept, self._held, self._version = kept, held, self._version + 1
                return
            await self._load_again()

    async def _load_again(self) -> None:
        """Load what may have changed. Raises _Ended when it was there and is not any more."""
        was_there = self._version
        await self._load()
        if was_there and not self._version:
            raise _Ended

    # The work

    async def _run(self) -> None:
        await self.load_surely()
        self._follows.router.divert(
            self._follows.account,
            self.container,
            self._note_event,
            name=HANDLER,
            hides=lambda: not self._desired.is_single(self.container),
        )
        while True:
            self._changed.clear()
            try:
                await self._do_what_is_due()
            except _Ended:
                text = "%s was left by another process: it is followed no longer"
                logger.warning(text, self.container)
                self._release([*self.wanted, *self._held, self.container])
                return self._follows.forget(self.container)
            except Exception as error:  # noqa: BLE001 - the follow depends on this task
                self._fail(error)
            await self._clock.sleep(self._pause(), unless=self._changed)

    async def _note_event(self, event: Event) -> None:
        """Look at a project soon: something happened to it."""
        if event.resource.resource_type == "project":
            self._touched.setdefault(event.resource.gid, self._clock.monotonic())
            self._changed.set()

    async def _do_what_is_due(self) -> None:
        now = self._clock.monotonic()
        if now < self._until:
            return
        has_settled = bool(self._touched) and now >= min(self._touched.values()) + SETTLE
        needs_list = now >= self._list_at or (
            has_settled and (len(self._touched) > FEW or self._kept.kind == "portfolios")
        )
        if not (needs_list or has_settled):
            return
        touched, self._touched = self._touched, {}  # what comes from now on is news of its own
        try:
            await (self._list() if needs_list else self._look_at(touched))
        except BaseException:
            self._touched |= touched
            raise
        self._failures = 0

    async def _look_at(self, projects: Collection[str]) -> None:
        """Ask for these projects, which changed."""
        found = await self._ask_for(projects)
        await self._settle((self.wanted - found.keys()) | _fitting(found))

    def _pause(self) -> float:
        """Return for how many seconds there is nothing to do unless something changes."""
        now = self._clock.monotonic()
        moments = [self._list_at, *(at + SETTLE for at in self._touched.values())]
        return max(0.0, min(moments) - now, self._until - now)

    async def _list(self) -> None:
        """Compare what there is with what is held."""
        await self._load_again()
        kind = self._kept.kind or await self._find_kind()
        self._desired.follow(
            self.container,
            follower=self.container,
            filters=CONTAINER_FILTERS,
            timeout=self._wish.timeout,
            is_spare=True,
        )
        found = await self._listed(kind)
        self._say_if_none_fits(found)
        missing = (self._held | self.wanted) - found.keys()
        if kind == "portfolios":  # nothing but a list says what is in one
            found |= dict.fromkeys(missing, False)
        else:
            found |= await self._ask_for(missing)
        await self._settle(_fitting(found))
        self._list_at = self._clock.monotonic() + self._follows.interval
        self.is_listed.set()

    async def _find_kind(self) -> str:
        """Return the kind of the container. Raises EstablishmentError when it is of none."""
        for kind in KINDS:
            try:
                await self._follows.api.request(
                    "GET", f"/{kind}/{self.container}", params={"opt_fields": "gid"}
                )
            except REFUSALS:
                continue
            await self._keep(kind=kind)
            return kind
        msg = "it is no workspace, team or portfolio that the token's user may see"
        raise EstablishmentError(msg)

    async def _listed(self, kind: str) -> dict[str, bool]:
        """Return of each project that is listed whether it is wanted."""
        found = {}
        pages = self._follows.api.iter_pages(
            f"/{kind}/{self.container}/{KINDS[kind]}", params={"opt_fields": self._wish.fields}
        )
        async for page in pages:
            for record in page:
                if record.get("resource_type", "project") == "project":
                    found[record["gid"]] = self._wish.fits(record)
        return found

    async def _ask_for(self, projects: Iterable[str]) -> dict[str, bool]:
        """Return of each of these projects whether it is in the container, and wanted."""
        found = {}
        for gid in projects:
            try:
                record = await self._follows.api.request(
                    "GET", f"/projects/{gid}", params={"opt_fields": self._wish.fields}
                )
            except REFUSALS:
                found[gid] = False
                continue
            place = _value(record, f"{self._kept.kind.removesuffix('s')}.gid")
            found[gid] = place == self.container and self._wish.fits(record)
        return found

    async def _settle(self, wanted: set[str]) -> None:
        """Have a webhook on each of these, and none for this container on any other."""
        fresh = wanted - self._held - self.wanted
        there = {route.resource for route in await self._follows.upkeep.routes()}
        singles = {gid for gid in fresh if self._is_single(gid, there)}
        new = self._with_room(sorted(fresh - singles))
        await self._keep(more=new)
        self._want([*new, *singles])
        gone = self._held - wanted
        if gone:
            await self._desired.unfollow(gone, self.container)
            await self._keep(less=gone)
        self._release(self.wanted - self._held - wanted)
        self.wanted = (wanted & (self._held | self.wanted)) | singles
        if fresh:
            self._has_news.set()

    def _is_single(self, gid: str, there: Collection[str]) -> bool:
        """Return whether a program has, or wants, a webhook of a project by itself."""
        is_anybodys = gid in there and not self._desired.is_followed(gid)
        return is_anybodys or self._desired.is_single(gid)

    def _with_room(self, new: list[str]) -> list[str]:
        """Return those of the projects for which Asana lets the token have webhooks."""
        room = max(0, MAX_WEBHOOKS - self._desired.count())
        without = len(new) - room
        self.problem = ""
        if without > 0:
            limit = f"Asana lets a token have {MAX_WEBHOOKS} webhooks"
            self.problem = f"{without} projects have none: {limit}; choose fewer with where="
            logger.error("following %s: %s", self.container, self.problem)
        return new[:room]

    # What is said

    def _say_if_none_fits(self, found: Mapping[str, bool]) -> None:
        """Log that no project is wanted; once, until one is."""
        is_empty = not any(found.values())
        if is_empty and not self._is_empty:
            if found:
                text = "following %s: none of its %d projects fits where="
                logger.warning(text, self.container, len(found))
            else:
                logger.info("following %s: it has no projects", self.container)
        self._is_empty = is_empty

    async def _report(self) -> None:
        """Log how far it has come, at most once a minute, and when all have their webhook."""
        pause = 0.0
        while True:
            await self._clock.sleep(math.inf, unless=self._has_news)
            await self._clock.sleep(pause)  # news of a minute are one
            pause = REPORT_EVERY
            self._has_news.clear()
            said_at, said = self._clock.monotonic(), -1
            uncovered = set(self.wanted)
            while self._is_any(uncovered):
                left = said_at + REPORT_EVERY - self._clock.monotonic()
                if left > 0:
                    await self._clock.sleep(left, unless=self._desired.progress)
                    continue
                uncovered &= self.wanted
                covered = self._desired.count_established(self.wanted)
                if covered != said:
                    text = "following %s: %d of %d projects have their webhook"
                    logger.info(text, self.container, covered, len(self.wanted))
                said_at, said = self._clock.monotonic(), covered
            text = "following %s: all projects have their webhook (%d)"
            logger.info(text, self.container, len(self.wanted))

    def _is_any(self, uncovered: set[str]) -> bool:
        """Return whether any of these has no webhook; those that have one are taken out."""
        while uncovered:
            gid = next(iter(uncovered))
            if self._desired.is_wanted(gid) and not self._desired.is_established(gid):
                return True
            uncovered.discard(gid)
        return False

    def _fail(self, error: Exception) -> None:
        """Note a failure, and when to try again; a cause is said once."""
        self._failures += 1
        pause = min(FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20), LONGEST_PAUSE)
        if isinstance(error, RateLimitedError) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        self._until = self._clock.monotonic() + pause
        cause = str(error) if isinstance(error, AsanaWebhooksError) else one_line(error)
        if cause == self.problem:
            return
        self.problem = cause
        if isinstance(error, AsanaWebhooksError):
            logger.warning("%s cannot be followed: %s", self.container, cause)
        else:
            logger.error("%s cannot be followed", self.container, exc_info=error)


class _Ended(Exception):  # noqa: N818 - no error: another process ended the follow
    """The store has no state of the follow any more."""


def _fitting(found: Mapping[str, bool]) -> set[str]:
    return {gid for gid, is_wanted in found.items() if is_wanted}
