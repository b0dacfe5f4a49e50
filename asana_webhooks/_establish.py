"""Establishing a webhook: reserve, create, compare, confirm; and cleaning up when that fails.

Nothing is kept in memory between the steps: the handshake may reach another process that shares
the store.

Source: https://developers.asana.com/docs/webhooks-guide#the-webhook-handshake
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from urllib.parse import SplitResult, urlsplit

import anyio
import msgspec

from ._addresses import is_public
from ._asana_transport import AsanaTransport
from ._background import background_task
from ._budget import Kind
from ._vocabulary import ACTIONS, warn_about_filter
from .api import WebhooksApi, check_filter_list, check_timeout, walk_webhooks
from .errors import (
    ApiError,
    AsanaWebhooksError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    EstablishmentError,
    HandshakeMismatchError,
    HandshakeMissingError,
    ServerError,
    StoreError,
)
from .models import Route, Webhook, WebhookFilter, check_gid
from .stores import Store

__all__ = [
    "ROUTE_ID_LENGTH",
    "Establishment",
    "advising_to_keep",
    "check_filters",
    "check_given_filters",
    "check_public_url",
    "check_wanted",
    "same_filters",
]

ROUTE_ID_LENGTH = 32
"""Characters of a route's id: 24 random bytes in URL-safe base 64, 192 bits."""

MAX_OF_RESOURCE = 1_000
"""How many webhooks Asana lets a resource have, whoever makes them."""

CLEAN_UP_TIMEOUT = 15.0
"""Seconds that undoing a failed establishment may take, after a cancellation too."""

LOOK_UPS = (0.0, 1.0, 3.0)
"""Seconds before each look for a webhook whose create call had no answer: it may appear late."""

NOT_LISTENING = "Does the server listen already? "

KEEP = (
    " While an application starts up nothing listens: there, declare the webhook with"
    " client.keep(...), which establishes it as soon as it can be."
)

logger = logging.getLogger(__name__)


def check_public_url(public_url: str, base_url: str) -> None:
    """Raise ValueError when Asana would not deliver to this address.

    A local ``base_url`` (a local Asana) may deliver to local addresses.
    """
    url = _parts(public_url)
    if re.search(r"[\x00-\x20]", public_url):  # urlsplit overlooks some of them
        msg = "public_url must not hold a blank or a line break, also not at its end"
        raise ValueError(msg)
    if url.query or url.fragment or url.username:
        msg = "public_url must be scheme, host and path only: a route is appended to it"
        raise ValueError(msg)
    if not is_public(urlsplit(base_url).hostname or ""):
        return
    if not is_public(url.hostname or ""):
        msg = (
            f"Asana cannot reach {url.hostname!r}: public_url must be on the public internet"
            " (for a local Asana, which can, give base_url or set ASANA_BASE_URL)"
        )
        raise ValueError(msg)
    if url.scheme == "http":
        logger.warning("public_url is http: whoever is on the way reads secrets and events")


def _parts(public_url: str) -> SplitResult:
    with contextlib.suppress(ValueError):  # a port that is none, an open bracket
        url = urlsplit(public_url)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return url
    msg = f"public_url must be an absolute https URL, not {public_url!r}"
    raise ValueError(msg)


def check_filters(filters: Sequence[WebhookFilter] | None) -> None:
    """Raise ValueError, with the rule, for a filter that Asana would refuse on any resource.

    Raises TypeError for what is no list of filters.
    """
    if filters is None:
        return
    check_filter_list(filters)
    for item in filters:
        if item.action is not None and item.action not in ACTIONS:
            msg = f"a filter's action is one of {', '.join(ACTIONS)}, not {item.action!r}"
            raise ValueError(msg)
        if item.fields is not None and item.action != "changed":
            msg = "a filter's fields go with the action 'changed' only"
            raise ValueError(msg)


def check_given_filters(filters: Sequence[WebhookFilter] | None) -> None:
    """Check filters when a program gives them: a word that looks misspelt is a UserWarning too."""
    check_filters(filters)
    for item in filters or ():
        warn_about_filter(item.resource_type, item.resource_subtype, item.fields)


class Establishment:
    """Makes webhooks of one account, whose targets are routes below ``public_url``.

    ``workspace`` limits where a webhook is looked for when the answer to its creation was lost;
    None looks into each that the token sees. ``seen`` tells, one line each, what handshakes
    reached this process for a route since a monotonic time. ``before_create`` is awaited with the
    route of a webhook that is about to be made, ``on_established`` called with that of each that
    was.
    """

    def __init__(
        self,
        api: WebhooksApi,
        store: Store,
        *,
        public_url: str,
        account: str = "",
        workspace: str | None,
        seen: Callable[[str, float], tuple[str, ...]],
        before_create: Callable[[Route], Awaitable[None]] | None = None,
        on_established: Callable[[Route], None] = lambda route: None,
    ) -> None:
        self.user = api._user
        self._api = api
        self._store = store
        self.prefix = public_url.rstrip("/") + "/"
        self._account = account
        self._workspace = workspace
        self._seen = seen
        self._before_create = before_create
        self._on_established = on_established

    async def establish(
        self, resource: str, *, filters: Sequence[WebhookFilter] | None, timeout: float
    ) -> Webhook:
        """Return a new webhook, its secret stored. See WebhooksClient.establish for the errors."""
        check_wanted(resource, filters, timeout)
        return await self._make(await self._new_route(resource, filters, timeout), timeout)

    async def establish_if_free(
        self, resource: str, *, filters: Sequence[WebhookFilter] | None, timeout: float
    ) -> Webhook | None:
        """Return a new webhook; None while the store has one of the resource, or another call does.

        Calls at once, in any process that shares the store, make one webhook: the reservation is
        what they compete for.
        """
        route = await self._new_route(resource, filters, timeout)
        async with self._slot() as creating:
            if not await self._reserve(route, timeout, exclusive=True):
                return None
            return await self._create(creating, route, timeout)

    async def replace(
        self,
        replaced: Sequence[Route],
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None,
        timeout: float,
    ) -> Webhook:
        """Return a new webhook, in whose place these routes are leaving from now on."""
        route = await self._new_route(resource, filters, timeout)
        return await self._make(route, timeout, replaced=replaced)

    def is_ours(self, route: Route) -> bool:
        """Return whether a route is below our public URL."""
        return route.target == self.prefix + route.id

    async def _make(
        self, route: Route, timeout: float, *, replaced: Sequence[Route] = ()
    ) -> Webhook:
        async with self._slot() as creating:
            await self._reserve(route, timeout)
            return await self._create(creating, route, timeout, replaced=replaced)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[AsanaTransport]:
        """Take the create call's place in the budget, so that no reservation waits for it.

        It is left when the call has ended: what undoes it needs places of its own.
        """
        creating = await self._api._transport.take_slot(Kind.CREATE)
        try:
            yield creating
        finally:
            creating.leave_slot()

    async def _new_route(
        self, resource: str, filters: Sequence[WebhookFilter] | None, timeout: float
    ) -> Route:
        route_id = secrets.token_urlsafe(ROUTE_ID_LENGTH * 3 // 4)
        return Route(
            id=route_id,
            target=self.prefix + route_id,
            resource=resource,
            account=self._account,
            user=await self.user.gid(within=timeout),
            filters=None if filters is None else tuple(filters),
        )

    async def _reserve(self, route: Route, timeout: float, *, exclusive: bool = False) -> bool:
        try:
            return await self._store.reserve(
                route, ttl=timeout + CLEAN_UP_TIMEOUT, exclusive=exclusive
            )
        except BaseException:  # the store may have done it all the same
            await self._undo_reservation(route)
            raise

    async def left_behind(self, route: Route) -> list[Route]:
        """Return the store's webhooks of the same resource and account at another public URL.

        Nothing reaches them any more: a store belongs to one address at a time. Those of another
        user are not ours to delete.
        """
        return [
            other
            for other in await self._store.list_routes(route.resource, account=route.account)
            if other.state == "confirmed"
            and not (other.leaving or self.is_ours(other))
            and other.user in (None, route.user)
        ]

    # A new webhook

    async def _create(
        self,
        creating: AsanaTransport,
        route: Route,
        timeout: float,
        *,
        replaced: Sequence[Route] = (),
    ) -> Webhook:
        listing = self.left_behind(route)  # meanwhile: the answer need not wait for the store then
        async with background_task(listing, "listing what is left behind") as left_behind:
            started = time.monotonic()
            webhook = await self._ask(creating, route, timeout, started)
            return await self._confirm(route, webhook, started, replaced, left_behind)

    async def _ask(
        self, creating: AsanaTransport, route: Route, timeout: float, started: float
    ) -> Webhook:
        """Return the webhook that Asana made, also when its answer was lost; else undo."""
        try:
            try:
                await self._check_limit(route.resource)
                if self._before_create is not None:
                    await self._before_create(route)
                return await self._post(self._api._over(creating), route, timeout)
            finally:
                creating.leave_slot()
        except AsanaWebhooksError as error:
            if not _is_lost(error):
                await self._undo_reservation(route)
                if isinstance(error, BadRequestError) and _is_about_handshake(error):
                    raise self._handshake_missing(route, started, error.errors) from error
                raise
            return await self._look_up_lost(route, error)
        except BaseException:
            await self._undo_unanswered(route)
            raise

    async def _check_limit(self, resource: str) -> None:
        """Raise EstablishmentError when a resource has as many webhooks as Asana lets it have."""
        if len(await self._store.list_routes(resource)) > MAX_OF_RESOURCE:  # with a reserved one
            msg = f"Asana lets a resource have {MAX_OF_RESOURCE} webhooks, and {resource} has them"
            raise EstablishmentError(msg)

    async def _post(self, api: WebhooksApi, route: Route, timeout: float) -> Webhook:
        try:
            with anyio.fail_after(timeout):
                return await api.create_webhook(
                    route.resource, route.target, filters=route.filters, timeout=timeout
                )
        except TimeoutError:
            msg = f"Asana did not answer the create call within {timeout:g} s"
            raise ConnectionFailedError(msg) from None

    async def _confirm(
        self,
        route: Route,
        webhook: Webhook,
        started: float,
        replaced: Sequence[Route],
        left_behind: Awaitable[Sequence[Route]],
    ) -> Webhook:
        try:
            leaving = [other.id for other in (*replaced, *await left_behind)]
            confirm = partial(self._store.confirm, route.id, gid=webhook.gid, leaving=leaving)
            secret = webhook.secret
            if secret is None or not await confirm(secret=secret):
                secret = await self._matching_secret(route, webhook, started)
                if not await confirm(secret=secret):
                    msg = "the reservation ran out before Asana's answer; establish again"
                    raise HandshakeMissingError(msg)
        except BaseException:
            await self._undo(route, webhook.gid)
            raise
        self._on_established(msgspec.structs.replace(route, gid=webhook.gid))
        return msgspec.structs.replace(webhook, secret=secret)

    async def _matching_secret(self, route: Route, webhook: Webhook, started: float) -> str:
        reserved = await self._store.get_route(route.id)
        if reserved is None or not reserved.candidates:
            said = ("the webhook was created: something else answered the handshake",)
            raise self._handshake_missing(route, started, said)
        candidates = reserved.candidates
        if webhook.secret is not None:
            for candidate in candidates:
                if hmac.compare_digest(candidate.encode(), webhook.secret.encode()):
                    return candidate
            msg = (
                "Asana's secret is none of those that handshakes left here; the webhook is deleted"
            )
            raise HandshakeMismatchError(msg)
        if len(candidates) != 1:
            msg = "several handshakes came and Asana did not say which is its own; webhook deleted"
            raise HandshakeMismatchError(msg)
        logger.warning(
            "Asana's answer for webhook %s held no secret; the only handshake's is kept",
            webhook.gid,
        )
        return candidates[0]

    def _handshake_missing(
        self, route: Route, started: float, asana: tuple[str, ...]
    ) -> HandshakeMissingError:
        seen = self._seen(route.id, started)
        listens = "" if seen else NOT_LISTENING
        msg = (
            f"no handshake was completed. {listens}"
            f"Asana said: {'; '.join(asana).rstrip('.') or 'nothing'}. "
            f"This receiver saw: {_summed_up(seen) or 'no handshake at all'}. "
            f"Check that {self.prefix} leads here from the internet (proxy, tunnel, firewall, TLS "
            "certificate), passes POST and the header X-Hook-Secret in both directions, and that "
            "all receivers behind it share one store."
        )
        return HandshakeMissingError(msg, asana=asana, seen=seen)

    # When it is not known whether Asana made the webhook

    async def _look_up_lost(self, route: Route, error: AsanaWebhooksError) -> Webhook:
        logger.warning("the answer to a create call was lost; looking for its webhook")
        webhook = None
        refusals: dict[str, ApiError] = {}
        try:
            with anyio.fail_after(CLEAN_UP_TIMEOUT):
                webhook = await self._look_up_patiently(route, refusals)
        except (AsanaWebhooksError, TimeoutError) as also:
            why = str(also) or "it took too long"
            error.add_note(f"whether a webhook was made could not be found out: {why}")
        except BaseException:
            await self._undo_unanswered(route)
            raise
        if webhook is None:
            await self._undo_reservation(route)
            for workspace, refusal in refusals.items():
                error.add_note(f"it was not looked for in workspace {workspace}: {refusal}")
            raise error
        return webhook

    async def _look_up_patiently(
        self, route: Route, refusals: dict[str, ApiError]
    ) -> Webhook | None:
        for delay in LOOK_UPS:
            await anyio.sleep(delay)
            refusals.clear()
            webhook = await self._look_up(route, refusals)
            if webhook is not None:
                return webhook
        return None

    async def _look_up(self, route: Route, refusals: dict[str, ApiError]) -> Webhook | None:
        found = walk_webhooks(
            self._api, refusals, workspace=self._workspace, resource=route.resource
        )
        async with contextlib.aclosing(found):
            async for webhook in found:
                if (webhook.target or "").rstrip("/").endswith("/" + route.id):
                    return webhook
        return None

    # Undoing; what raised, a cancellation too, goes on afterwards whatever fails here

    async def _undo_reservation(self, route: Route) -> None:
        with _cleanup("a reservation may be left in the store until it expires"):
            await self._forget(route)

    async def _undo_unanswered(self, route: Route) -> None:
        with _cleanup("a webhook may be left at Asana, without a receiver"):
            if not await self._forget(route):
                return  # no secret was echoed, so Asana cannot have made the webhook
            refusals: dict[str, ApiError] = {}
            webhook = await self._look_up_patiently(route, refusals)
            if webhook is not None:
                await self._api.delete_webhook(webhook.gid)
            for refusal in refusals.values():
                raise refusal

    async def _undo(self, route: Route, gid: str) -> None:
        with _cleanup(f"webhook {gid} may be left at Asana, delete it by hand"):
            await self._forget(route)
            await self._api.delete_webhook(gid)

    async def _forget(self, route: Route) -> bool:
        """Drop the route, or retire it; return whether a handshake may have been echoed for it."""
        try:
            dropped = await self._store.drop(route.id)
            if dropped is None:
                await self._store.retire(route.id)
        except StoreError as error:
            logger.error("an unwanted route may be left in the store: %s", error)
            return True
        return dropped is not None and bool(dropped.candidates)


@contextlib.contextmanager
def _cleanup(left: str) -> Iterator[None]:
    """Shield and bound what undoes; log what is left when that fails, or is cut off."""
    why = "cleaning up did not end"
    try:
        with anyio.move_on_after(CLEAN_UP_TIMEOUT, shield=True):
            yield
            why = ""
    except AsanaWebhooksError as error:
        why = str(error)
    finally:
        if why:
            logger.error("%s: %s", left, why)


@contextlib.contextmanager
def advising_to_keep() -> Iterator[None]:
    """Have a missing handshake name ``keep``, for a call that does not wait for a server."""
    try:
        yield
    except HandshakeMissingError as error:
        if not error.seen:
            error.args = (f"{error}{KEEP}",)
        raise


def check_wanted(resource: str, filters: Sequence[WebhookFilter] | None, timeout: float) -> None:
    """Raise ValueError or TypeError for a webhook that cannot be had."""
    check_gid("resource", resource)
    check_filters(filters)
    check_timeout(timeout)


def _summed_up(lines: Sequence[str]) -> str:
    counted = Counter(lines).items()
    return "; ".join(line if times == 1 else f"{line}, {times} times" for line, times in counted)


def _is_lost(error: AsanaWebhooksError) -> bool:
    """Return whether Asana may have made the webhook although its answer is an error, or none."""
    if isinstance(error, ConnectionFailedError):
        return error.sent
    return isinstance(error, ServerError | DecodeError)


def _is_about_handshake(error: BadRequestError) -> bool:
    said = " ".join(error.errors).lower()
    return "handshake" in said or "remote server" in said or "status code" in said


def same_filters(
    filters: Sequence[WebhookFilter] | None, others: Sequence[WebhookFilter] | None
) -> bool:
    """Return whether two lists of filters pass the same, in whichever order they stand."""
    return _as_set(filters) == _as_set(others)


def _as_set(filters: Sequence[WebhookFilter] | None) -> set[object]:
    return {
        (item.resource_type, item.resource_subtype, item.action, frozenset(item.fields or ()))
        for item in filters or ()
    }
