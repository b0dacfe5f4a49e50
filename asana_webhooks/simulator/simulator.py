"""The local Asana as a whole: its server, and what its users do."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import anyio
from aiohttp import web

from .carrier import Attempt, Carrier
from .creation import Creation
from .deliveries import Deliveries
from .faults import Faults
from .filters import passes
from .posts import Posts
from .server import API, application
from .state import Event, State, Thing, WebhookRecord
from .targets import Targets

__all__ = ["AsanaSimulator"]

logger = logging.getLogger(__name__)

CLOSING_TIMEOUT = 5.0
PATIENCE = 20.0  # seconds beyond a target's own that one step of the driven clock may take


class AsanaSimulator:
    """A local Asana with one workspace, one user and one project; it serves inside ``async with``.

    Any bearer token is accepted, each stands for an app of its own. ``allow_local=False`` refuses
    local targets as Asana does; ``allow_hosts`` names the hosts besides loopback that may be posted
    to. ``gather_for`` is how many seconds events are gathered for, to go in one body: Asana takes
    about a minute, and 0 sends those of each act and of each ``emit`` at once. ``retry_delay`` is
    the pause in seconds before the first retry of a delivery, doubled before each further one;
    ``delivery_timeout`` how many seconds a target has for its answer, always of real time;
    ``give_up_after`` after how many without a success a webhook is deleted; ``retry_after`` what
    the fault ``rate-limited`` says in its header.

    ``webhooks`` maps gids to the webhooks that exist, ``deliveries`` lists every signed post in
    order, ``faults`` is the set of faults that are on for all webhooks, and each webhook has
    ``faults`` of its own. ``create_started`` and ``handshake_done`` are events that are set, and
    never cleared, when a create call arrives and when its handshake was answered;
    ``release_handshake`` and ``release_201`` end the waits of the slow faults.

    Its time is real time and all that ``advance`` let pass besides.

    Raises ValueError when an argument makes no sense.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_local: bool = True,
        allow_hosts: Collection[str] = (),
        gather_for: float = 0.05,
        retry_delay: float = 1.0,
        delivery_timeout: float = 10.0,
        give_up_after: float = 86_400.0,
        retry_after: int = 1,
    ) -> None:
        _check_address(host, port)
        _check_seconds(retry_delay=retry_delay, delivery_timeout=delivery_timeout)
        _check_seconds(zero=True, gather_for=gather_for, give_up_after=give_up_after)
        _check_seconds(zero=True, retry_after=retry_after)
        self._host, self._port = host, port
        self._state = State()
        self.faults = Faults()
        self._posts = Posts(timeout=delivery_timeout)
        self._carrier = Carrier(self._posts, self.faults)
        self._deliveries = Deliveries(
            self._state,
            self._carrier,
            self._start,
            gather_for=gather_for,
            retry_delay=retry_delay,
            give_up_after=give_up_after,
        )
        targets = Targets(local=allow_local, hosts=allow_hosts)
        self._creation = Creation(self._state, self._posts, self._deliveries, self.faults, targets)
        self._patience = delivery_timeout + PATIENCE
        self._retry_after = retry_after
        self._base_url: str | None = None
        self._opened = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._publish()

    def _publish(self) -> None:
        self.workspace = self._state.workspace.gid
        self.user = self._state.user.gid
        self.project = self._state.project.gid
        self.webhooks: Mapping[str, WebhookRecord] = self._state.webhooks
        self.deliveries: list[Attempt] = self._carrier.attempts
        self.create_started = self._creation.started
        self.handshake_done = self._creation.handshake_done
        self.release_handshake = self._creation.release_handshake
        self.release_201 = self._creation.release_201

    @property
    def base_url(self) -> str:
        """The URL under which the API answers; RuntimeError before the simulator is entered."""
        if self._base_url is None:
            msg = "the local Asana serves inside `async with` only"
            raise RuntimeError(msg)
        return self._base_url

    @property
    def stranger_secret(self) -> str | None:
        """The last secret that a stranger posted to a target, None when none did."""
        return self._creation.strangers[-1] if self._creation.strangers else None

    async def __aenter__(self) -> AsanaSimulator:
        try:
            await self._opened.enter_async_context(self._posts)
            self._group = await self._opened.enter_async_context(asyncio.TaskGroup())
            self._opened.callback(self._cancel)
            await self._serve()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        # The stack is not told of an exception: the task group would wrap it in a group.
        self._cancel()
        with anyio.move_on_after(CLOSING_TIMEOUT, shield=True):
            await self._opened.aclose()

    async def _serve(self) -> None:
        app = application(
            self._state, self._creation, self.faults, self._start, retry_after=self._retry_after
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._opened.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port).start()
        host, port = runner.addresses[0][:2]
        self._base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}{API}"
        logger.info("the local Asana listens on %s", self._base_url)

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancel(self) -> None:
        self._state.clock.stop()
        for task in self._tasks:
            task.cancel()

    async def create_task(self, name: str, *, project: str) -> str:
        """Add a task to a project and so to its section; return the task's gid."""
        task = self._state.add(
            Thing(
                gid=self._state.new_gid(),
                resource_type="task",
                resource_subtype="default_task",
                name=name,
                parents=(self._state.thing(project, "project").gid,),
            )
        )
        parents = (self._state.thing(project), self._state.section)
        await self._cause(
            task, *(self._state.event("added", task, parent=each) for each in parents)
        )
        return task.gid

    async def complete_task(self, task: str) -> None:
        """Mark a task as completed: two of its fields change in the same instant."""
        thing = self._state.thing(task, "task")
        first = self._state.event("changed", thing, field="completed")
        second = self._state.event("changed", thing, field="completed_at")
        await self._cause(thing, first, second | {"created_at": first["created_at"]})

    async def add_comment(self, task: str, text: str) -> str:
        """Comment on a task; return the gid of the story, whose event names no user."""
        parent = self._state.thing(task, "task")
        story = self._state.add(
            Thing(
                gid=self._state.new_gid(),
                resource_type="story",
                resource_subtype="comment_added",
                name=text,
            )
        )
        event = self._state.event("added", story, parent=parent)
        await self._cause(parent, event | {"user": None})
        return story.gid

    async def emit(self, resource: str, *events: Mapping[str, Any]) -> None:
        """Send events, in Asana's JSON shape, to every webhook on exactly this resource.

        Each webhook gets those that pass its filters in one body, with what else happens within
        ``gather_for``, and nothing if none does.
        """
        for webhook in self._state.webhooks.values():
            passing = [event for event in events if passes(event, webhook.filters)]
            if webhook.resource == resource and passing:
                self._deliveries.gather(webhook, passing)

    async def deliver(
        self, webhook_gid: str, body: bytes, *, signature: str | None = None
    ) -> int | None:
        """Post exactly these bytes once and return the status, None when no answer came.

        Signed with the webhook's secret, or with ``signature`` as it is; the webhook may be
        deleted already. Neither its record nor its retries take notice.
        """
        webhook = self._state.webhook(webhook_gid)
        return await self._carrier.post(webhook, body, signature=signature)

    async def settled(self) -> None:
        """Return when no event is gathered and no delivery under way or waiting for a retry.

        It takes the real time that this takes; ``advance`` does not.
        """
        await self._deliveries.settled()

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let so much time pass at this Asana, and return when all that was due in it is done.

        Gathered events, retries, heartbeats and deletions come in their order, each at its own
        time; what is posted is really posted, and its answer waited for before time goes on. Only
        what a target does after its answer may still be under way.

        Raises ValueError when the time is negative, and TimeoutError when a target keeps one moment
        from ending for 20 seconds longer than ``delivery_timeout``.
        """
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if length < timedelta():
            msg = f"time passes forwards only, not by {length.total_seconds():g} seconds"
            raise ValueError(msg)
        await self._state.clock.advance(length.total_seconds(), patience=self._patience)

    async def _cause(self, thing: Thing, *events: Event) -> None:
        for gid in (thing.gid, *thing.parents):
            await self.emit(gid, *events)


def _check_address(host: str, port: int) -> None:
    if not host:
        msg = "host must name the interface to listen on, such as 127.0.0.1"
        raise ValueError(msg)
    if not 0 <= port <= 65_535:
        msg = f"port must be between 0 (any free one) and 65535, not {port}"
        raise ValueError(msg)


def _check_seconds(*, zero: bool = False, **durations: float) -> None:
    for name, seconds in durations.items():
        if not (math.isfinite(seconds) and (seconds > 0 or (zero and seconds == 0))):
            msg = f"{name} must be a {'' if zero else 'positive '}number of seconds, not {seconds}"
            raise ValueError(msg)
