"""The webhooks that the store holds: whether they live, whose they are, and how they end.

Many are looked after by lists, a page of a hundred with each call. A list proves nothing alone:
Asana may show a new webhook late, or refuse a workspace. So what is missing from one is asked for
by its gid, and only a 404 says that it is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import anyio
import msgspec

from ._establish import ROUTE_ID_LENGTH, Establishment, check_wanted, same_filters
from .api import REFUSALS, WebhooksApi
from .errors import (
    AccountTokenError,
    ApiError,
    AsanaWebhooksError,
    AuthenticationError,
    EstablishmentError,
    NotFoundError,
    PermissionDeniedError,
)
from .models import Route, Source, Webhook, WebhookFilter
from .notices import Notices, judge, source_of
from .protocol import route_of
from .stores import Store

__all__ = ["Listed", "Upkeep", "orphans_among"]

FIRST_POLL, LONGEST_POLL = 0.05, 2.0
"""Seconds between looks at another call that establishes the same webhook: they double."""

DELETE_TIMEOUT = 15.0
"""Seconds for deleting the webhooks in whose place another came; what is left is tried again."""

FIELDS = (
    *("resource", "target", "active", "filters", "created_at", "last_success_at"),
    *("last_failure_at", "last_failure_content", "delivery_retry_count"),
    *("next_attempt_after", "failure_deletion_timestamp"),
)
"""The fields of webhooks that a list is asked for; it tells few of them unless asked."""

LEAVE_AT_ONCE = 5
"""How many webhooks of an account are deleted side by side."""

MANY = 10
"""More webhooks than these are not lost one by one: something happened to all of them."""

logger = logging.getLogger(__name__)

Filters = Sequence[WebhookFilter] | None
T = TypeVar("T")


class Listed(NamedTuple):
    """Asana's records of webhooks by gid, as they were listed.

    ``whole`` are the workspaces whose lists are complete; ``everywhere`` says whether these are all
    in which a webhook can be. ``began_at`` is when the first list was asked for.
    """

    webhooks: dict[str, Webhook]
    whole: frozenset[str]
    everywhere: bool
    began_at: datetime


class Upkeep:
    """Looks after the webhooks of one account, at this public URL, that the store holds.

    ``api`` makes its calls. ``workspace`` is the only one in which they are listed; None: each that
    the token sees. ``now`` tells the time by which heartbeats are noted, ``forget`` is called with
    the id of a route that changed, ``on_filtered`` with a route whose webhook has other filters
    from now on.
    """

    def __init__(
        self,
        api: WebhooksApi,
        store: Store,
        establishment: Establishment,
        notices: Notices,
        *,
        account: str = "",
        workspace: str | None,
        now: Callable[[], datetime],
        forget: Callable[[str], None],
        on_filtered: Callable[[Route], None] = lambda route: None,
    ) -> None:
        self._api = api
        self._store = store
        self._establishment = establishment
        self._notices = notices
        self._account = account
        self._workspace = workspace
        self._now = now
        self._forget = forget
        self._on_filtered = on_filtered
        self._workspaces: dict[str, str] = {}  # in which a webhook was listed, by gid
        self._refused_leaving: set[str] = set()  # routes, of which it was said

    # One resource

    async def ensure(
        self, resource: str, *, filters: Filters, timeout: float, replace: bool = False
    ) -> Webhook:
        """Return the living webhook of this store for the resource, or a new one.

        Calls at once, in any process that shares the store, make one webhook. With ``replace`` a
        new one takes the place of what the store holds. Raises EstablishmentError when another
        call makes it for ``timeout`` seconds, and for a webhook of another user.
        """
        check_wanted(resource, filters, timeout)
        if replace:
            replaced = await self.routes(resource)
            webhook = await self._establishment.replace(
                replaced, resource, filters=filters, timeout=timeout
            )
            await self._delete_replaced(resource, theirs=[route.id for route in replaced])
            return webhook
        deadline, pause = None, FIRST_POLL
        while True:
            found = await self._existing(
                resource, filters
            ) or await self._establishment.establish_if_free(
                resource, filters=filters, timeout=timeout
            )
            if found is not None:
                await self._delete_replaced(resource)
                return found
            deadline = deadline or time.monotonic() + timeout
            left = deadline - time.monotonic()
            if left <= 0:
                msg = (
                    f"another call was establishing the webhook of {resource} for {timeout:g} s:"
                    " call again; what a killed process reserved is free soon after its own timeout"
                )
                raise EstablishmentError(msg)
            await anyio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_POLL)

    async def routes(self, resource: str | None = None) -> list[Route]:
        """Return the confirmed routes below our URL that stay, oldest first."""
        return [
            route
            for route in await self._listed(resource)
            if route.state == "confirmed"
            and not route.leaving
            and self._establishment.is_ours(route)
        ]

    async def _listed(self, resource: str | None = None) -> list[Route]:
        """Return the reserved and confirmed routes of the account, oldest first."""
        return await self._store.list_routes(resource, account=self._account)

    async def held_filters(self, resource: str) -> Filters:
        """Return the filters of the store's webhook of the resource; None without one, or any."""
        return next((route.filters for route in await self.routes(resource)), None)

    async def is_being_made(self, resource: str) -> bool:
        """Return whether some process is establishing a webhook of the resource."""
        routes = await self._listed(resource)
        return any(route.state == "reserved" for route in routes)

    async def was_lost(self, route: str) -> bool:
        """Return whether a route is retired because its webhook was lost."""
        found = await self._store.get_route(route)
        return found is not None and found.retired_as == "lost"

    async def _existing(self, resource: str, filters: Filters) -> Webhook | None:
        for route in await self.routes(resource):
            webhook = await self._up_to_date(route, filters)
            if webhook is not None:
                for other in await self._establishment.left_behind(route):
                    await self._store.leave(other.id)
                return webhook
        return None

    async def _up_to_date(self, route: Route, filters: Filters) -> Webhook | None:
        """Return the webhook of this route with these filters; None, and retired, if it is gone."""
        await self.check_owner(route)
        webhook = await self.find(route)
        if webhook is None:
            return None
        if webhook.active is False or route.secret is None:
            cause = "is inactive" if webhook.active is False else "has lost its secret in the store"
            await self._delete(route)
            await self._lose(route, f"it {cause}; it is deleted, to be established again")
            return None
        if not same_filters(webhook.filters, filters):
            webhook = await self._api.update_webhook(webhook.gid, filters=filters or ())
            await self._store.set_filters(route.id, filters)
            self._on_filtered(route)
        return msgspec.structs.replace(webhook, secret=route.secret)

    async def find(self, route: Route) -> Webhook | None:
        """Return Asana's record of a route's webhook; None, and retired, when it is lost.

        Raises EstablishmentError, with the way out, when the token may not see it.
        """
        gid = route.gid or ""
        try:
            webhook = await self._api.get_webhook(gid)
        except NotFoundError:
            await self._lose(route, "Asana does not know it any more")
            return None
        except PermissionDeniedError as error:
            raise _hidden(route, error) from error
        if route.user is None:
            await self._remember_user(route)
        return webhook

    async def check_owner(self, route: Route) -> None:
        """Raise EstablishmentError when a webhook is of another user than the token's."""
        user = await self._establishment.user.gid()
        if None not in (user, route.user) and user != route.user:
            msg = (
                f"webhook {route.gid} of {route.resource} in this store is user {route.user}'s, and"
                f" the token is user {user}'s: use a token of that user, or another store."
                f" {_way_out(route)}"
            )
            raise EstablishmentError(msg)

    async def owned(self, routes: Sequence[Route]) -> list[Route]:
        """Return those of the routes that are not known to be of another user than the token's."""
        user = await self._establishment.user.gid()
        return [route for route in routes if user is None or route.user in (None, user)]

    async def _remember_user(self, route: Route) -> None:
        user = await self._establishment.user.gid()
        if user is not None:
            await self._store.set_user(route.id, user)

    async def _lose(self, route: Route, detail: str) -> None:
        if await self._store.retire(route.id, lost=True):
            self._notices.tell("lost", source_of(route), detail)
        self._forget(route.id)

    # All of them

    async def list_webhooks(self, only: str | None = None) -> Listed:
        """Return what Asana lists, in one workspace alone if told.

        Raises what the calls raise but for a workspace's refusal.
        """
        began_at = datetime.now(UTC)  # the time by which a store confirms
        webhooks, whole = dict[str, Webhook](), set[str]()
        everywhere = True
        async for workspace in self._all_workspaces(only or self._workspace):
            try:
                async for webhook in self._api.iter_webhooks(workspace, opt_fields=FIELDS):
                    webhooks[webhook.gid] = webhook
                    self._workspaces[webhook.gid] = workspace
            except ApiError as error:
                if error.status not in REFUSALS:
                    raise
                everywhere = False
                logger.info("workspace %s cannot be looked into: %s", workspace, error)
            else:
                whole.add(workspace)
        return Listed(webhooks, frozenset(whole), everywhere, began_at)

    async def _all_workspaces(self, only: str | None) -> AsyncIterator[str]:
        if only is not None:
            yield only
            return
        async for workspace in self._api.iter_workspaces():
            yield workspace.gid

    def is_missing(self, route: Route, listed: Listed) -> bool:
        """Return whether the list should have this route's webhook, and has it not."""
        if route.gid is None or route.gid in listed.webhooks:
            return False
        if route.confirmed_at is None or route.confirmed_at >= listed.began_at:
            return False
        return listed.everywhere or self._workspaces.get(route.gid) in listed.whole

    async def find_missing(self, missing: Sequence[Route]) -> list[Route]:
        """Ask for each of these webhooks, one after the other; return the routes of the lost ones.

        Raises what a call raises but for what is of one webhook, which is logged.
        """
        all_of_them = Source(webhook="", resource="", account=self._account)
        if len(missing) > MANY:
            detail = f"{len(missing)} webhooks are missing from Asana's list; each is asked for now"
            self._notices.tell("lost", all_of_them, detail)
            self._notices.over("lost", all_of_them)
        lost = []
        for route in missing:
            try:
                if await self.find(route) is None:
                    lost.append(route)
                    self._workspaces.pop(route.gid or "", None)
            except EstablishmentError as error:
                self._notices.tell("unauthorized", source_of(route), str(error))
        return lost

    async def judge(self, route: Route, webhook: Webhook) -> None:
        """Tell what a webhook's record and its heartbeats say, and keep whose an old one is."""
        if route.user is None:
            await self._remember_user(route)
        troubles = judge(webhook, route, self._now())
        for kind, detail in troubles:
            self._notices.tell(kind, source_of(route), detail)
        if not troubles:
            self._notices.tell("restored", source_of(route), "deliveries and heartbeats arrive")

    async def find_orphans(self, workspace: str | None = None) -> list[Webhook]:
        """Return the webhooks that lead to our URL and whose secret the store does not hold."""
        listed = await self.list_webhooks(workspace)
        # The store is read after Asana: what is being established at this moment has its route.
        return orphans_among(
            listed.webhooks.values(), await self._store.list_routes(), self._establishment.prefix
        )

    # The end of a webhook

    async def leave(self, resource: str) -> bool:
        """Delete the webhooks of a resource; False when Asana could not be told of all now.

        Those are leaving from now on: ``finish_leaving`` tells it. Raises EstablishmentError for
        another user's, and for one that Asana refuses to delete.
        """
        routes = [route for route in await self._listed(resource) if route.state == "confirmed"]
        for route in routes:
            await self.check_owner(route)
            await self._store.leave(route.id)
        done = True
        for route in routes:
            try:
                await self._end(route)
            except PermissionDeniedError as error:
                raise _hidden(route, error) from error
            except AsanaWebhooksError as error:
                done = self._left(route, error)
        return done

    async def begin_leaving(self, resource: str) -> None:
        """Have the webhooks of a resource leave; ``finish_leaving`` deletes them.

        Those of another user stay. Raises StoreError, and what asking for the token's user raises.
        """
        for route in await self.owned(await self._listed(resource)):
            if route.state == "confirmed":
                await self._store.leave(route.id)

    async def leave_all(self) -> bool:
        """Delete all webhooks of the account; False when Asana could not be told of all now.

        Those are leaving from now on. Those that Asana refuses to the token are given up, which is
        logged: nothing answers them any more, so Asana deletes them after a day.
        """
        routes = [route for route in await self._listed() if route.state == "confirmed"]
        for route in routes:
            await self._store.leave(route.id)
        return all(await _side_by_side(self._end_or_give_up, routes))

    async def _end_or_give_up(self, route: Route) -> bool:
        try:
            try:
                await self._delete(route)
            except (AuthenticationError, PermissionDeniedError) as error:
                if isinstance(error, AccountTokenError) and not error.is_final:
                    raise
                text = "webhook %s of %s is left at Asana, which ends it within a day: %s"
                logger.warning(text, route.gid, route.resource, error)
            await self._retire(route)
        except AsanaWebhooksError as error:
            return self._left(route, error)
        return True

    def _left(self, route: Route, error: AsanaWebhooksError) -> bool:
        """Say that a webhook is deleted later; return False."""
        text = "webhook %s of %s is deleted as soon as Asana can be told: %s"
        logger.warning(text, route.gid, route.resource, error)
        return False

    async def finish_leaving(self) -> None:
        """Delete the webhooks that are leaving, wherever they deliver to.

        Raises what a call raises but for a refusal of one webhook, which is said once.
        """
        leaving = [route for route in await self._listed() if route.leaving]
        await _side_by_side(self._end_if_allowed, await self.owned(leaving))

    async def has_leaving(self) -> bool:
        """Return whether a webhook is to be deleted."""
        return any(route.leaving for route in await self._listed())

    async def forget(self, gid: str) -> None:
        """Drop a webhook from the store alone. Raises ValueError when the store does not hold it.

        Processes that share the store, and want a webhook of the resource, make another one.
        """
        for route in await self._listed():
            if route.gid == gid:
                await self._store.retire(route.id, lost=True)
                self._forget(route.id)
                return
        msg = f"the store holds no webhook {gid}"
        raise ValueError(msg)

    async def _delete_replaced(self, resource: str, *, theirs: Sequence[str] = ()) -> None:
        """Delete those in whose place another came; ``theirs`` are retired even if refused."""
        leaving = [route for route in await self._listed(resource) if route.leaving]
        owned = await self.owned(leaving)
        try:
            with anyio.fail_after(DELETE_TIMEOUT):
                for route in (each for each in leaving if each in owned or each.id in theirs):
                    await self._end_if_allowed(route, retire=route.id in theirs)
        except (AsanaWebhooksError, TimeoutError) as error:
            why = str(error) or "it takes too long"
            text = "the webhook that %s had before is deleted later: %s"
            logger.warning(text, resource, why)

    async def _end_if_allowed(self, route: Route, *, retire: bool = False) -> None:
        try:
            await self._end(route)
        except PermissionDeniedError as error:
            if route.id not in self._refused_leaving:
                self._refused_leaving.add(route.id)
                logger.warning("a webhook is left at Asana: %s", _hidden(route, error))
            if retire:
                await self._store.retire(route.id)
                self._forget(route.id)

    async def _end(self, route: Route) -> None:
        await self._delete(route)
        await self._retire(route)

    async def _retire(self, route: Route) -> None:
        await self._store.retire(route.id)
        self._forget(route.id)
        self._refused_leaving.discard(route.id)

    async def _delete(self, route: Route) -> None:
        await self._api.delete_webhook(route.gid or "")


async def _side_by_side(act: Callable[[Route], Awaitable[T]], routes: Iterable[Route]) -> list[T]:
    """Return the results of an act for each of these routes, in no order, five at a time.

    Raises the first error, when those that are under way have ended.
    """
    results: list[T] = []
    errors: list[AsanaWebhooksError] = []
    waiting = iter(routes)

    async def do_some() -> None:
        for route in waiting:
            try:
                results.append(await act(route))
            except AsanaWebhooksError as error:
                errors.append(error)
            if errors:
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(LEAVE_AT_ONCE):
            tasks.start_soon(do_some)
    if errors:
        raise errors[0]
    return results


def orphans_among(
    webhooks: Iterable[Webhook], routes: Iterable[Route], public_url: str
) -> list[Webhook]:
    """Return those of the webhooks that lead to a public URL, but to none of these routes."""
    known = {route.id for route in routes}
    ours = (webhook for webhook in webhooks if _is_below(webhook.target or "", public_url))
    return [webhook for webhook in ours if route_of(webhook.target or "") not in known]


def _is_below(target: str, public_url: str) -> bool:
    """Return whether a target is this address and a route, so that it was made here."""
    route = route_of(target)
    place = f"{public_url.rstrip('/')}/{route}"
    return len(route) == ROUTE_ID_LENGTH and target.rstrip("/") == place


def _hidden(route: Route, error: PermissionDeniedError) -> EstablishmentError:
    """Return the error for a webhook of the store that Asana refuses to this token."""
    msg = (
        f"Asana refuses webhook {route.gid} of {route.resource}, which the store holds, to this"
        f" token: {error}. It may be another user's, or another app's. {_way_out(route)}"
    )
    return EstablishmentError(msg)


def _way_out(route: Route) -> str:
    return (
        f"`await client.forget({route.gid!r})` drops it from the store and leaves it at Asana;"
        f" `await client.ensure({route.resource!r}, replace=True)` makes one of this user's instead"
    )
