"""The accounts of a client: whose token makes a call, and what works for each of them.

What an account needs is made when it is used, and is small: one task looks after all of its
webhooks, and nothing else runs for it. All accounts share the connections, the store and the inbox.

An account that is removed leaves its webhooks first. Then its deliveries are handled, and then all
that the store has of it is deleted. The intent is stored, so that the next process goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
from typing import NamedTuple, TypeAlias

import httpx

from ._asana_transport import find_auth
from ._clock import Clock
from ._desired import DesiredWebhooks, Turns
from ._establish import Establishment
from ._follow import Follows
from ._logging import ThrottledLogger
from ._upkeep import Upkeep
from .api import WebhooksApi
from .errors import AccountTokenError, AsanaWebhooksError, StoreError
from .models import State
from .stores import Store

__all__ = [
    "AccountAuth",
    "AccountParts",
    "Accounts",
    "LoadToken",
    "check_account_name",
]

LoadToken: TypeAlias = Callable[[str], Awaitable[str | httpx.Auth]]
"""Returns the token of an account, or what authenticates its calls."""

LOAD_SECONDS = 20.0
"""How long loading the token of an account may take."""

OWN_HINT = (
    "it is for the calls of the client itself, and for webhooks of no account that the store holds:"
    " have tokens= return one for '' too, or call through client.account(...) or client.of(event)"
)
"""The next step when there is no token for the account ''."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a removal is tried again, which double."""

REMOVING = "removing-"
"""The states of the account "" that say which accounts are being removed."""

_NAME = re.compile(r"[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")

logger = logging.getLogger(__name__)


def check_account_name(account: object) -> str:
    """Return the name of an account. Raises ValueError, TypeError for no text, when it is none."""
    if not isinstance(account, str):
        msg = f"account must be a text, not {type(account).__name__}"
        raise TypeError(msg)
    if _NAME.fullmatch(account):
        return account
    msg = "account must have 1 to 200 characters, without a slash and without control characters"
    raise ValueError(msg)


# Tokens


class AccountAuth(httpx.Auth):
    """Authenticates the calls of one account, by what ``load`` returns for it.

    That is loaded for the first call, and anew after a 401; calls at once wait for one loading. A
    call raises AccountTokenError when there is no token. ``on_other_token`` is called when another
    one was loaded than before: it may be another user's. For one event loop at a time.
    """

    def __init__(
        self, account: str, load: LoadToken, *, on_other_token: Callable[[], None]
    ) -> None:
        self._account = account
        self._load = load
        self._on_other_token = on_other_token
        self._loaded: _Loaded | None = None
        self._loading: asyncio.Task[_Loaded] | None = None

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request as the account; once more when it is refused and the token is another.

        Raises what loading raises.
        """
        loaded, refused = self._loaded or await self._load_once(), None
        while True:
            async with contextlib.aclosing(loaded.auth.async_auth_flow(request)) as flow:
                response = yield await anext(flow)
                while (again := await _next(flow, response)) is not None:
                    response = yield again
            if response.status_code != httpx.codes.UNAUTHORIZED or refused is not None:
                return
            await response.aread()  # its connection may be the one that the loading waits for
            refused, loaded = loaded, await self._load_after(loaded)
            if loaded.token == refused.token:
                return

    def stop(self) -> None:
        """End a loading that is under way; the calls that wait for it raise AccountTokenError."""
        if self._loading is not None:
            self._loading.cancel()

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Raise RuntimeError: loading needs an event loop."""
        msg = "the token of an account works with httpx.AsyncClient only"
        raise RuntimeError(msg)

    async def _load_after(self, refused: _Loaded) -> _Loaded:
        """Return what took the place of what Asana refused, by one loading for all calls."""
        if self._loaded is refused:
            return await self._load_once()
        return self._loaded or await self._load_once()

    async def _load_once(self) -> _Loaded:
        task = self._loading
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            name = f"asana-webhooks loading the token of {self._account}"
            task = self._loading = asyncio.create_task(self._call(), name=name)
            task.add_done_callback(self._end_loading)
        await asyncio.wait([task])
        if task.cancelled():  # which is not a cancellation of this call
            raise self._no_token("loading it was cancelled")
        return task.result()

    def _end_loading(self, task: asyncio.Task[_Loaded]) -> None:
        if self._loading is task:
            self._loading = None
        if not task.cancelled():
            task.exception()  # seen here, for nobody may be left who waits for it

    async def _call(self) -> _Loaded:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                loaded = _loaded_from(await self._load(self._account))
        except AsanaWebhooksError:
            raise
        except Exception as error:
            none = self._no_token(type(error).__name__)
            none.is_final = isinstance(error, LookupError)
            if not self._account:
                none.hint = OWN_HINT
            raise none from error
        before, self._loaded = self._loaded, loaded
        if before is not None and before.token != loaded.token:
            self._on_other_token()
        return loaded

    def _no_token(self, why: str) -> AccountTokenError:
        text = f"the token of account {self._account!r} could not be loaded: {why}"
        return AccountTokenError(401, (text,))


class _Loaded(NamedTuple):
    """A token that was loaded, and what authenticates by it."""

    token: str | httpx.Auth
    auth: httpx.Auth

    def __repr__(self) -> str:
        return "_Loaded()"


def _loaded_from(token: str | httpx.Auth) -> _Loaded:
    """Return what was loaded. Raises what ``_auth_of`` raises, without a frame that has it."""
    try:
        return _Loaded(token, _auth_of(token))
    except (TypeError, ValueError) as error:
        del token
        raise error.with_traceback(None) from None


def _auth_of(token: object) -> httpx.Auth:
    """Return what authenticates by what was loaded. Raises TypeError, ValueError for no token."""
    auth = find_auth(token, None) if isinstance(token, str | httpx.Auth) else None
    if auth is None:
        msg = f"tokens must return a token or an httpx.Auth, not {type(token).__name__}"
        raise TypeError(msg)
    return auth


async def _next(
    flow: AsyncGenerator[httpx.Request, httpx.Response], response: httpx.Response
) -> httpx.Request | None:
    """Return the request that follows a response; None when there is none."""
    try:
        return await flow.asend(response)
    except StopAsyncIteration:
        return None


# What works for an account


class AccountParts(NamedTuple):
    """The parts that work for one account; ``api`` makes its calls as Asana has them."""

    name: str
    api: WebhooksApi
    establishment: Establishment
    upkeep: Upkeep
    desired: DesiredWebhooks
    follows: Follows

    @property
    def is_wanted(self) -> bool:
        """Whether the program wants any webhook of the account."""
        return self.desired.has_any() or bool(self.follows)

    async def kept(self) -> None:
        """Return when all that is wanted is established."""
        await self.follows.listed()
        await self.desired.kept()

    def pending(self) -> list[str]:
        """Return what is not established and why, one line each."""
        follows = self.follows
        return [*follows.problems(), *follows.pending(), *self.desired.pending()]

    def begin(self) -> None:
        """Have nothing count as established that was in a run before."""
        self.desired.begin()
        self.follows.begin()

    async def run(self, turns: Turns) -> None:
        """Establish and look after what is wanted, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self.follows.run(tasks)
                await self.desired.run(turns)
        finally:
            self.follows.end_run()

    def drop_all(self) -> None:
        """Want nothing any longer, and end what is being established."""
        self.follows.forget()
        self.desired.drop_all()


class Accounts:
    """The accounts that are used, and one task for each that looks after its webhooks.

    ``make`` returns the parts of an account; ``knows`` whether its token can be asked for.
    ``interval`` is how often, in seconds, it is looked for accounts that another process has
    brought into the store; None: once. ``forget`` is called with the name of one that is no more.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        make: Callable[[str], AccountParts],
        knows: Callable[[str], bool],
        interval: float | None,
        forget: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._make = make
        self._knows = knows
        self._interval = math.inf if interval is None else interval
        self._forget = forget
        self._parts: dict[str, AccountParts] = {}
        self._strangers: set[str] = set()  # of whom it was said that there is no token
        self._log = ThrottledLogger(logger)
        self._tasks: asyncio.TaskGroup | None = None  # while it runs
        self._turns = Turns()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._removing: set[str] = set()  # of which the intent is stored

    def get(self, name: str) -> AccountParts:
        """Return what works for an account, made when it is first asked for."""
        parts = self._parts.get(name)
        if parts is None:
            parts = self._parts[name] = self._make(name)
        return parts

    def all(self) -> Collection[AccountParts]:
        """Return the parts of all accounts that are used."""
        return list(self._parts.values())

    def wake(self) -> None:
        """Look whether handlers want other filters of the webhooks."""
        for parts in self._parts.values():
            parts.desired.wake(has_stale_filters=True)

    async def learn_time(self) -> None:
        """Ask Asana for the time, by one of the accounts; it fails in silence."""
        parts = next(iter(self._parts.values()), None)
        if parts is not None:
            await parts.api._transport.learn_time()

    # Looking after them

    def begin(self) -> None:
        """Have nothing count as established that was in a run before."""
        self._turns, self._running, self._removals, self._removing = Turns(), {}, {}, set()
        for parts in self._parts.values():
            parts.begin()

    async def run(self) -> None:
        """Look after the accounts that are used, and those in the store, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for name in list(self._parts):
                    self._start(name)
                is_first = True
                while True:
                    try:
                        await self._find(is_first=is_first)
                        is_first, pause = False, self._interval
                    except StoreError as error:
                        text = "accounts could not be looked for: %s"
                        self._log.log(logging.WARNING, "find", text, error)
                        pause = FIRST_PAUSE
                    await self._clock.sleep(pause)
        finally:
            self._tasks = None

    def start(self, name: str) -> None:
        """Look after an account from now on, while this runs: something is wanted of it."""
        self._cancel_removal(name)
        self._start(name, is_wished=True)

    def _start(self, name: str, *, is_wished: bool = False) -> None:
        if self._tasks is not None and name not in self._running and self._knows(name):
            label = f"asana-webhooks looking after {name}".rstrip()
            work = self._look_after(self.get(name), is_wished=is_wished)
            task = self._running[name] = self._tasks.create_task(work, name=label)
            self._clock.follow(task)

    async def _look_after(self, parts: AccountParts, *, is_wished: bool) -> None:
        try:
            if is_wished:
                await self._take_back_surely(parts.name)
            await parts.run(self._turns)
        except Exception:  # the others go on; the next sweep, or wish, starts this one again
            logger.exception("account %r is looked after no longer for now", parts.name)
        finally:
            self._running.pop(parts.name, None)

    async def _take_back_surely(self, name: str) -> None:
        while True:
            try:
                return await self.take_back(name)
            except StoreError as error:
                text = "whether account %r is being removed could not be seen: %s"
                self._log.log(logging.WARNING, "take back", text, name, error)
                await self._clock.sleep(FIRST_PAUSE)

    async def _find(self, *, is_first: bool) -> None:
        """Start what the store shows to be there, or to be on its way out."""
        for state in await self._store.list_states(""):
            name = state.scope.removeprefix(f"/{REMOVING}")
            if name == state.scope:
                continue
            if is_first and self._is_wanted(name):  # the program has it again
                await self.take_back(name)
            else:
                self._go_on_removing(name)
        for name in {route.account for route in await self._store.list_routes()} - self._removing:
            self._start(name)
            if not self._knows(name) and name not in self._strangers:
                self._strangers.add(name)
                text = "the webhooks of account %r are not looked after: the client has no tokens="
                logger.warning(text, name)

    def _is_wanted(self, name: str) -> bool:
        parts = self._parts.get(name)
        return parts is not None and parts.is_wanted

    # The end of an account

    async def remove(self, name: str) -> None:
        """Leave all webhooks of an account, and delete all of it when its deliveries are handled.

        What cannot be done now is done later. Raises StoreError when the intent is not stored.
        """
        if await self._store.get_state(_removing(name)) is None:
            await self._store.put_state(State(scope=_removing(name), text=""))
        self._removing.add(name)
        await self._stop(name)
        try:
            await self.get(name).upkeep.leave_all()
        finally:
            self._go_on_removing(name)

    async def take_back(self, name: str) -> None:
        """End the removal of an account, if one is under way: something is wanted of it again.

        Raises StoreError.
        """
        if not name:
            return
        self._cancel_removal(name)
        await self._drop_intent(name)

    def _cancel_removal(self, name: str) -> None:
        self._removing.discard(name)
        removal = self._removals.pop(name, None)
        if removal is not None:
            removal.cancel()

    async def _stop(self, name: str) -> None:
        """End what looks after an account, and then what is kept of it.

        What is being established is cancelled once: a second time would cut off its undoing.
        """
        running = self._running.get(name)
        if running is not None:
            if not running.cancelling():
                running.cancel()
            await asyncio.wait([running])
        self.get(name).drop_all()

    def _go_on_removing(self, name: str) -> None:
        self._removing.add(name)
        if self._tasks is not None and name not in self._removals and self._knows(name):
            label = f"asana-webhooks removing {name}"
            task = self._removals[name] = self._tasks.create_task(self._remove(name), name=label)
            self._clock.follow(task)

    async def _remove(self, name: str) -> None:
        pause = FIRST_PAUSE
        await self._stop(name)
        while not await self._try_to_remove(name):
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._removals.pop(name, None)

    async def _try_to_remove(self, name: str) -> bool:
        """Return whether nothing is left of an account, here and in the store."""
        try:
            if await self._store.get_state(_removing(name)) is None:
                self._removing.discard(name)  # another process has taken it back
                return True
            if not await self.get(name).upkeep.leave_all():
                return False
            if not await self._store.forget_account(name):
                return False  # its deliveries are handled first
            await self._drop_intent(name)
        except StoreError as error:
            text = "account %r is removed later: %s"
            self._log.log(logging.WARNING, "remove", text, name, error)
            return False
        except Exception:  # the others go on
            logger.exception("account %r is removed later", name)
            return False
        self._parts.pop(name, None)
        self._removing.discard(name)
        self._forget(name)
        logger.info("account %r is removed", name)
        return True

    async def _drop_intent(self, name: str) -> None:
        state = await self._store.get_state(_removing(name))
        if state is not None:
            await self._store.drop_state(state.scope, state.version)


def _removing(name: str) -> str:
    """Return the scope of the state that says that an account is being removed."""
    return f"/{REMOVING}{name}"
