"""The local Asana as a whole: its server, and what its users do."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import ssl
from collections import deque
from collections.abc import Collection, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import anyio
import msgspec
from aiohttp import web

from .app import API, KINDS, application
from .arguments import (
    LONGEST,
    NUMBER,
    check_address,
    check_limits,
    check_seconds,
    check_share,
    check_type,
    check_types,
    checked_names,
)
from .call import Service
from .control import CONTROL
from .deliveries import Deliveries
from .events import EventLog, PublishedEvent
from .faults import Faults
from .groups.events import EventCalls
from .groups.portfolios import add_portfolio
from .groups.portfolios import put as put_into_portfolio
from .groups.projects import add_project
from .groups.stories import add_comment
from .groups.tasks import add_task, change_task
from .groups.users import add_user, remove_user
from .groups.webhooks import WebhookCalls
from .http_sender import DeliverySender, HttpSender
from .input import Pages
from .losses import Losses
from .middleware import Limits, Middleware
from .oauth import Tokens
from .objects import AsanaObject, choose
from .observers import Attempt, Call, Dropped, Traffic, Watch
from .seed import fill
from .seeding import plant, read
from .state import State, WebhookRecord
from .user_actions import UserActions
from .webhook_creation import Targets, WebhookCreation

__all__ = ["AsanaSimulator"]

logger = logging.getLogger(__name__)

CLOSING_TIMEOUT = 5.0
MOST_CALLS = 10_000
PATIENCE = 20.0  # seconds beyond a target's own that one step of the driven clock may take


class AsanaSimulator:
    """A local Asana with one workspace, in it a project ``Bugs``; it serves inside ``async with``.

    Any bearer token is accepted, and each stands for an app of its own. Those of ``add_user`` act
    for that user, all others for the first one; those that its own OAuth calls gave out act for the
    user who was asked, ``oauth.user``, and are good for their time and scopes.

    It answers calls to addresses and to ``localhost``; ``host_names`` are more names that it may be
    called by. With ``ssl_context`` it speaks TLS. ``allow_local=False`` refuses local targets as
    Asana does; ``allow_hosts`` names the hosts besides loopback that may be posted to.
    ``gather_for`` is how many seconds events are gathered for, to go in one body: Asana takes about
    a minute, and 0 sends those of each act and of each ``emit`` at once. ``retry_delay`` is the
    pause in seconds before the first retry of a delivery, doubled before each further one;
    ``delivery_timeout`` how many seconds a target has for its answer, always of real time;
    ``give_up_after`` after how many without a success a webhook is deleted; ``retry_after`` what
    the fault ``rate-limited`` and the limits of calls at once say in their header. ``drop_share``
    is how large a share of a webhook's events the fault ``dropped`` loses; ``sync_lasts`` for how
    many seconds a sync token is good, and ``stream_lag`` how many seconds later than it happens an
    event is in the stream.

    ``rate_limit`` is how many calls a minute a token has (Asana: 150 where nothing is paid, else
    1,500), ``concurrent_gets`` and ``concurrent_writes`` how many at once (Asana: 50 and 15); None
    is no limit. ``changes`` announces changes of the API in ``Asana-Change``: names, and where each
    is explained. ``oauth_clients`` maps ids of apps to their secrets, None takes any; ``consents``
    is whether users agree when they are asked, ``rotates`` whether refreshing gives a new refresh
    token. ``changes`` can be altered at any time, and so can ``oauth.clients``, ``oauth.user``,
    ``oauth.consents`` and ``oauth.rotates``.

    ``webhooks`` maps gids to the webhooks that exist, ``deliveries`` lists the last 10,000 signed
    posts in order, ``dropped`` the last 10,000 events that a fault lost. ``faults`` is the set of
    faults that are on for all webhooks, and each webhook has ``faults`` of its own.
    ``create_started`` and ``handshake_done`` are events that are set, and never cleared, when a
    create call arrives and when its handshake was answered; ``release_handshake``, ``release_201``
    and ``release_stream`` end the waits of the slow faults.

    An operation of Asana's API that is not served here is answered 501. What else a call gives and
    this Asana does not keep is said in a warning and in the header ``Asana-Simulator``; ``strict``
    answers 501 to that too.
    With ``system_stories`` each change of a task makes a story of the system, and an event of it.

    ``watch`` is called with each Call, Handshake and Attempt when its answer is known, and with
    each event that is Dropped; it must not raise. Other processes drive this Asana by HTTP, see
    ``control_url``.

    Its time, which its answers tell in ``Date``, is real time and all that ``advance`` let pass
    besides. When it is ``frozen_at`` a time that knows its zone, ``advance`` alone lets time pass:
    until then nothing is delivered that waits for a moment, as what is gathered does.

    Raises ValueError when an argument makes no sense, TypeError when it is of another type.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        host_names: Collection[str] = (),
        allow_local: bool = True,
        allow_hosts: Collection[str] = (),
        gather_for: float = 0.05,
        retry_delay: float = 1.0,
        delivery_timeout: float = 10.0,
        give_up_after: float = 86_400.0,
        retry_after: int = 1,
        rate_limit: int | None = None,
        concurrent_gets: int | None = None,
        concurrent_writes: int | None = None,
        drop_share: float = 0.05,
        sync_lasts: float = 86_400.0,
        stream_lag: float = 0.0,
        changes: Mapping[str, str] | None = None,
        oauth_clients: Mapping[str, str] | None = None,
        consents: bool = True,
        rotates: bool = False,
        strict: bool = False,
        frozen_at: datetime | None = None,
        system_stories: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        watch: Watch | None = None,
    ) -> None:
        check_types(locals())
        check_address(host, port)
        if frozen_at is not None and frozen_at.tzinfo is None:
            msg = "frozen_at must know its time zone, such as datetime(2026, 7, 1, tzinfo=UTC)"
            raise ValueError(msg)
        check_seconds(retry_delay=retry_delay, delivery_timeout=delivery_timeout)
        check_seconds(sync_lasts=sync_lasts)
        check_seconds(zero=True, gather_for=gather_for, give_up_after=give_up_after)
        check_seconds(zero=True, retry_after=retry_after, stream_lag=stream_lag)
        check_share(drop_share)
        check_limits(
            rate_limit=rate_limit,
            concurrent_gets=concurrent_gets,
            concurrent_writes=concurrent_writes,
        )
        self._host, self._port, self._tls = host, port, ssl_context
        self._host_names = checked_names(host_names)
        self._state = State(frozen_at)
        fill(self._state)
        self.faults: Faults = Faults()
        self._http = HttpSender(timeout=delivery_timeout)
        self._calls: deque[Call] = deque(maxlen=MOST_CALLS)
        self._watch = watch or _nobody_watches
        self._sender = DeliverySender(self._http, self.faults, self._watch)
        self._deliveries = Deliveries(
            self._state,
            self._sender,
            self.faults,
            self._start,
            gather_for=gather_for,
            retry_delay=retry_delay,
            give_up_after=give_up_after,
        )
        targets = Targets(local=allow_local, hosts=allow_hosts)
        self._creation = WebhookCreation(
            self._state, self._http, self._deliveries, self.faults, targets, self._watch
        )
        self._losses = Losses(self._sender.has, drop_share, self._watch, self._deliveries.gather)
        self._log = EventLog(self._state, self._losses.pass_on)
        self.release_stream: asyncio.Event = asyncio.Event()
        self._streams = EventCalls(
            self._state,
            self._log,
            self.faults,
            self._start,
            lasts=timedelta(seconds=sync_lasts),
            lag=timedelta(seconds=stream_lag),
            release=self.release_stream,
        )
        self._actions = UserActions(self._state, self._log, system_stories=system_stories)
        self._service = Service(
            state=self._state,
            actions=self._actions,
            pages=Pages(self._state.now),
            kinds=KINDS,
            faults=self.faults,
            strict=strict,
        )
        self.changes: dict[str, str] = dict(changes or {})
        self.oauth: Tokens = Tokens(
            self._state, clients=oauth_clients, consents=consents, rotates=rotates
        )
        limits = Limits(
            self._state.now,
            per_minute=rate_limit,
            gets=concurrent_gets,
            writes=concurrent_writes,
            retry_after=retry_after,
        )
        self._middleware = Middleware(
            self._state,
            self.faults,
            self.oauth,
            limits,
            self.changes,
            retry_after=retry_after,
        )
        self._patience = delivery_timeout + PATIENCE
        self._origin: str | None = None
        self._opened = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._publish()

    def _publish(self) -> None:
        self.workspace: str = self._state.workspace.gid
        self.user: str = self._state.user.gid
        self.project: str = self._state.project.gid
        self.webhooks: Mapping[str, WebhookRecord] = self._state.webhooks
        self.deliveries: list[Attempt] = self._sender.attempts
        self.dropped: list[Dropped] = self._losses.dropped
        self.create_started: asyncio.Event = self._creation.started
        self.handshake_done: asyncio.Event = self._creation.handshake_done
        self.release_handshake: asyncio.Event = self._creation.release_handshake
        self.release_201: asyncio.Event = self._creation.release_201

    @property
    def base_url(self) -> str:
        """The URL under which the API answers; RuntimeError before the simulator is entered."""
        return f"{self._entered()}{API}"

    @property
    def oauth_url(self) -> str:
        """The URL under which ``/oauth_authorize``, ``/oauth_token`` and ``/oauth_revoke`` are.

        Raises RuntimeError before the simulator is entered.
        """
        return f"{self._entered()}/-"

    @property
    def control_url(self) -> str:
        """The URL below which other processes of this machine drive this Asana.

        ``simulator/control.py`` has the calls. Raises RuntimeError before the simulator is entered.
        """
        return f"{self._entered()}{CONTROL}"

    @property
    def now(self) -> datetime:
        """The time at this Asana, in whole milliseconds."""
        return self._state.clock.now()

    def _entered(self) -> str:
        if self._origin is None:
            msg = "the local Asana serves inside `async with` only"
            raise RuntimeError(msg)
        return self._origin

    @property
    def stranger_secret(self) -> str | None:
        """The last secret that a stranger posted to a target, None when none did."""
        return self._creation.strangers[-1] if self._creation.strangers else None

    async def __aenter__(self) -> AsanaSimulator:
        try:
            await self._opened.enter_async_context(self._http)
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
            service=self._service,
            webhooks=WebhookCalls(self._state, self._creation, self.faults, self._start),
            streams=self._streams,
            tokens=self.oauth,
            middleware=self._middleware,
            faults=self.faults,
            asana=self,
            watch=self._note,
            host_names=(self._host, *self._host_names),
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._opened.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port, ssl_context=self._tls).start()
        host, port = runner.addresses[0][:2]
        scheme = "http" if self._tls is None else "https"
        self._origin = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        logger.info("the local Asana listens on %s", self.base_url)

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancel(self) -> None:
        self._state.clock.stop()
        self._deliveries.stop()
        for task in self._tasks:
            task.cancel()

    def _note(self, call: Traffic) -> None:
        if isinstance(call, Call) and not call.path.startswith(f"{CONTROL}/"):
            self._calls.append(call)
        self._watch(call)

    def calls(
        self, method: str | None = None, path: str | None = None, *, token: str | None = None
    ) -> list[Call]:
        """Return the calls that were answered, in order: those of a method, path or token if given.

        The last 10,000 are kept. A ``path`` is one below the API, such as ``/tasks/*``.
        """
        return [
            each
            for each in self._calls
            if method in (None, each.method)
            and (path is None or fnmatchcase(each.path, f"{API}{path}"))
            and token in (None, each.token)
        ]

    async def reset(self) -> None:
        """Make everything as it was at the start, but for the time.

        Webhooks are deleted and faults switched off. Tokens, calls, deliveries and what was dropped
        are forgotten, and new objects get the same gids as the first time.
        """
        self._state.clear()
        fill(self._state)
        self.faults.clear()
        self.oauth.clear()
        self.oauth.user = self.user
        for kept in (self._log, self._streams, self._calls, self.deliveries, self.dropped):
            kept.clear()

    async def seed(self, world: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, str]:
        """Add the objects of a description, or of a file of JSON; return their gids by names.

        ``seeding.py`` tells what may stand in it. Nothing of it is an event. Raises ValueError when
        it holds what is not known; what stands before that may be there then.
        """
        with self._log.silenced():
            return plant(self._actions, read(world))

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return the records of all objects by their gids, links by gid and type, to compare."""
        return {
            thing.gid: choose(thing, thing.kind.names, bare=True)
            for thing in self._state.things.values()
            if thing.alive
        }

    async def add_user(
        self, name: str, *, token: str | None = None, email: str | None = None
    ) -> str:
        """Add a user to the workspace; return the user's gid.

        Calls with ``token`` are this user's. ``email`` is made from the name if None. Raises
        ValueError when another user has the token or the address.
        """
        if token == "" or token in self._state.tokens:
            msg = "the token of a user is a text that no other user has"
            raise ValueError(msg)
        if any(each.fields["email"] == email for each in self._state.all("user")):
            msg = f"another user has the address {email}"
            raise ValueError(msg)
        user = add_user(self._actions, name, email)
        if token is not None:
            self._state.tokens[token] = user
        return user.gid

    async def remove_user(self, gid: str) -> None:
        """Remove a user from everything: the user's webhooks are deleted and tokens refused."""
        remove_user(self._actions, self._state.thing(gid, "user"))

    async def create_project(
        self,
        name: str,
        *,
        team: str | None = None,
        members: Collection[str] | None = None,
        user: str | None = None,
    ) -> str:
        """Add a project to the workspace, and to a team if given; return its gid.

        With ``members`` it is private: only these users and its creator see it, calls of others
        are answered 403. ``user`` is who creates it, the first user if None.
        """
        fields: dict[str, Any] = {"name": name, "team": team and self._state.thing(team, "team")}
        with self._acting(user) as creator:
            if members is not None:
                others = [self._state.thing(gid, "user") for gid in members]
                fields["members"] = list(dict.fromkeys([creator, *others]))
                fields["privacy_setting"] = "private"
            return add_project(self._actions, fields).gid

    async def create_portfolio(self, name: str, *, projects: Collection[str] = ()) -> str:
        """Add a portfolio that holds these projects; return its gid."""
        items = [self._state.thing(gid, "project") for gid in projects]
        portfolio = add_portfolio(self._actions, {"name": name})
        for project in items:
            put_into_portfolio(self._actions, portfolio, project)
        return portfolio.gid

    async def create_task(self, name: str, *, project: str, user: str | None = None) -> str:
        """Add a task to a project and so to its first section; return the task's gid.

        ``user`` is the gid of who does it, the first user if None; so it is below.
        """
        place = self._state.thing(project, "project")
        with self._acting(user):
            return add_task(self._actions, {"name": name}, places={place: None}).gid

    async def complete_task(self, task: str, *, user: str | None = None) -> None:
        """Mark a task as completed: two of its fields change in the same instant."""
        with self._acting(user):
            change_task(self._actions, self._state.thing(task, "task"), {"completed": True})

    async def add_comment(self, task: str, text: str, *, user: str | None = None) -> str:
        """Comment on a task; return the gid of the story, whose event names no user."""
        with self._acting(user):
            return add_comment(self._actions, self._state.thing(task, "task"), {"text": text}).gid

    async def delete(self, gid: str, *, user: str | None = None) -> None:
        """Delete a task, a story, a project or whatever has this gid."""
        with self._acting(user):
            self._actions.delete(self._state.thing(gid))

    async def undelete(self, gid: str, *, user: str | None = None) -> None:
        """Bring a deleted object back, which Asana lets users do but not its API."""
        with self._acting(user):
            self._actions.undelete(self._known(gid))

    @contextmanager
    def _acting(self, gid: str | None) -> Iterator[AsanaObject]:
        user = self._state.first_user if gid is None else self._state.thing(gid, "user")
        with self._state.acting_as(user):
            yield user

    async def emit(self, resource: str, *events: Mapping[str, Any]) -> None:
        """Send events, in Asana's JSON shape, to every webhook on exactly this resource.

        Each webhook gets those that pass its filters in one body, with what else happens within
        ``gather_for``, and nothing if none does. They are in the resource's stream of events too.

        Raises ValueError when there was never such a resource, TypeError when an event is no JSON.
        """
        self._known(resource)
        msgspec.json.encode(events)  # raises before anything is sent
        self._log.publish(*(PublishedEvent(event, {resource}) for event in copy.deepcopy(events)))

    def _known(self, gid: str) -> AsanaObject:
        if gid not in self._state.things:
            msg = f"there was never an object with gid {gid!r}"
            raise ValueError(msg)
        return self._state.things[gid]

    async def deliver(
        self, webhook_gid: str, body: bytes, *, signature: str | None = None
    ) -> int | None:
        """Post exactly these bytes once and return the status, None when no answer came.

        Signed with the webhook's secret, or with ``signature`` as it is; the webhook may be
        deleted already. Neither its record nor its retries take notice.
        """
        webhook = self._state.webhook(webhook_gid)
        return await self._sender.post(webhook, body, signature=signature)

    async def settled(self) -> None:
        """Return when no event is gathered and no delivery under way or waiting for a retry.

        What a fault holds up is not waited for. It takes the real time that this takes;
        ``advance`` does not.
        """
        await self._deliveries.settled()

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Pass so much time at this Asana; return when all that was due in it is done.

        Gathered events, retries, heartbeats and deletions come in their order, each at its own
        time; what is posted is really posted, and its answer waited for before time goes on. Only
        what a target does after its answer may still be under way.

        Raises TypeError for what is no number, ValueError when the time is negative or beyond all
        reason, and TimeoutError when a target keeps one moment from ending for 20 seconds longer
        than ``delivery_timeout``.
        """
        length = 0.0
        for name, value, unit in (
            ("days", days, 86_400),
            ("hours", hours, 3_600),
            ("minutes", minutes, 60),
            ("seconds", seconds, 1),
        ):
            check_type(name, value, NUMBER)
            if not -LONGEST <= value <= LONGEST:
                msg = f"{name} must be a number of {name} up to {LONGEST}"
                raise ValueError(msg)
            length += value * unit
        if not 0 <= length <= LONGEST:
            msg = f"time passes forwards only, and by {LONGEST} seconds at most, not by {length:g}"
            raise ValueError(msg)
        await self._state.clock.advance(length, patience=self._patience)


def _nobody_watches(_: Traffic) -> None:
    pass
