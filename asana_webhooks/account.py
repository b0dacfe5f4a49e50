"""``Account``: the webhooks of one Asana user, and the calls with that user's token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import EllipsisType

from ._accounts import AccountParts
from ._asana_transport import AsanaTransport
from ._components import Components
from ._establish import advising_to_keep, check_given_filters, check_wanted
from ._follow import Where, check_where
from ._options import SECONDS, check_options, optional
from .api import WebhooksApi
from .models import Route, Webhook, WebhookFilter, check_gid

__all__ = ["Account"]


class Account(WebhooksApi):
    """One Asana user: webhooks that are established, and calls that are made, with one token.

    ``client.account(name)`` returns it, and ``client.of(event)`` that of an event; the client
    itself is the account "", whose token is the client's. All accounts share the client's receiver,
    store and handlers. Each has a token, a budget of calls, and troubles of its own.
    """

    name: str
    """The program's name for it; ``event.source.account`` of its events."""

    def __init__(self, client: Account, name: str, transport: AsanaTransport) -> None:
        self._call_over(transport)
        self._writes = client._writes and client._writes.of(name)
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    async def aclose(self) -> None:
        """Do nothing: the connections are the client's."""

    def _configured(self) -> Components:
        """Return the parts of the client. Raises RuntimeError for one that only calls Asana."""
        return self._client._configured()

    def _opened(self) -> Components:
        """Return the parts of the client. Raises RuntimeError when it is not open."""
        return self._client._opened()

    def _has_store(self) -> bool:
        """Return whether the client has a store, and it is open."""
        return self._client._has_store()

    def _parts(self) -> AccountParts:
        """Return what works for this account. Raises RuntimeError when the client is not open."""
        return self._opened().accounts.get(self.name)

    async def establish(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        timeout: float = 60.0,
    ) -> Webhook:
        """Return a new webhook for the resource: handshake answered, secret stored, verified.

        ``timeout`` is in seconds, for the create call. Whatever goes wrong, and when cancelled,
        nothing of it is left at Asana or in the store, as far as Asana can be reached.

        Raises ValueError for filters that Asana would refuse; HandshakeMissingError when the
        handshake did not reach this receiver or its store, with what did; HandshakeMismatchError
        when Asana's secret is another one; ApiError and ConnectionFailedError like
        ``create_webhook``; StoreError.
        """
        parts = self._parts()
        check_wanted(resource, filters, timeout)
        check_given_filters(filters)
        await self._opened().accounts.take_back(self.name)
        with advising_to_keep():
            return await parts.establishment.establish(resource, filters=filters, timeout=timeout)

    def keep(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | EllipsisType | None = ...,
        timeout: float = 60.0,
    ) -> None:
        """Want a webhook of the resource while the client is entered; it may not be yet.

        It is established beside all else as soon as the receiver can be reached, and again
        whenever it is lost, until ``leave`` or ``delete_webhook``; what keeps it from that is
        logged. Filters that are left out are those that the handlers need, and follow them; None:
        every event. ``timeout`` is in seconds, for each create call.

        Raises ValueError for what Asana would refuse, and EstablishmentError when the account keeps
        as many webhooks as Asana lets a token have.
        """
        given = None if isinstance(filters, EllipsisType) else filters
        check_wanted(resource, given, timeout)
        check_given_filters(given)
        desired = self._configured().accounts.get(self.name).desired
        desired.keep(resource, filters=filters, timeout=timeout)

    def follow(
        self,
        container: str,
        *,
        where: Where | None = None,
        filters: Sequence[WebhookFilter] | EllipsisType | None = ...,
        timeout: float = 60.0,
    ) -> None:
        """Want a webhook of each project of a workspace, a team or a portfolio, as ``keep`` does.

        Also of those that are made later; the webhooks of projects that leave the container, or do
        not fit ``where`` any longer, are deleted. It may be called before the client is entered. A
        webhook of the container tells of changes, where Asana lets it have one; all projects are
        listed at the start and every ``look_after`` seconds. Handlers get the events of that
        webhook only if they name the container as ``resource``, or it is kept too.

        ``where`` maps fields of a project to the values that they must have, as
        ``{"archived": False, "team.gid": "1204619"}``, or is a function that is given Asana's
        record of a project and returns whether it is wanted: a dict with ``name``, ``archived``,
        ``completed``, ``color``, ``created_at``, ``modified_at``, ``start_on``, ``due_on``,
        ``privacy_setting``, ``owner``, ``team`` and ``workspace``. None: all of them. ``filters``
        and ``timeout`` are as in ``keep``. A project that is kept, or has a webhook already, stays
        as it is, also when it leaves.

        ``leave`` ends it. Raises ValueError or TypeError for what cannot be followed.
        """
        given = None if isinstance(filters, EllipsisType) else filters
        check_wanted(container, given, timeout)
        check_given_filters(given)
        check_where(where)
        follows = self._configured().accounts.get(self.name).follows
        follows.follow(container, where=where, filters=filters, timeout=timeout)

    async def kept(self, *, timeout: float | None = 60.0) -> None:
        """Return when each webhook of this account that is wanted is established.

        Those that are kept or followed, and those that were ensured. Raises TimeoutError after
        ``timeout`` seconds (None: never), which names those that are not, and why.
        """
        check_options({"timeout": optional(SECONDS, "None for no limit")}, locals())
        parts = self._parts()
        try:
            async with asyncio.timeout(timeout):
                await parts.kept()
        except TimeoutError:
            msg = f"not established after {timeout:g} s: {'; '.join(parts.pending())}"
            raise TimeoutError(msg) from None

    async def leave(self, resource: str) -> None:
        """Delete the store's webhooks of a resource, and keep none of it any longer.

        What was received before is still handled. When Asana cannot be reached the intent is
        stored, and carried out as soon as it can be, by the next process too. Raises
        EstablishmentError for a webhook of another user, or one that Asana refuses to delete.

        What is followed is followed no longer, and the webhooks that were made for that alone are
        deleted beside all else.
        """
        check_gid("resource", resource)
        parts = self._parts()
        if not await parts.follows.end(resource):
            await parts.desired.leave(resource)

    async def ensure(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        timeout: float = 60.0,
        replace: bool = False,
    ) -> Webhook:
        """Return the webhook that the store holds for the resource, alive and with these filters.

        One that Asana does not know any more, or calls inactive, is replaced; filters that differ
        are updated. Without one, or for another ``public_url``, it is established, and the one of
        the other URL is deleted. Calls at once make one webhook. From then on it is looked after
        (see ``look_after``) until it is deleted with ``leave`` or ``delete_webhook``, here or in
        another process that shares the store, or by ``asana-webhooks delete``; one that is replaced
        has another gid. ``timeout`` is in seconds, for the create call, and for waiting for another
        call that makes the webhook. With ``replace`` a new webhook takes the place of what the
        store holds, whoever made that.

        ``filters=None`` is every event. For a resource that is kept, the filters given here
        override those of ``keep`` until ``keep`` is called again; a warning says so when they
        differ.

        Raises what ``establish``, ``get_webhook`` and ``update_webhook`` raise, and
        EstablishmentError when another call is not done in time, when the store's webhook was made
        by another user, and when Asana refuses it to this token.
        """
        desired = self._parts().desired
        check_wanted(resource, filters, timeout)
        check_given_filters(filters)
        await self._opened().accounts.take_back(self.name)
        with advising_to_keep():
            return await desired.ensure(resource, filters=filters, timeout=timeout, replace=replace)

    async def forget(self, gid: str) -> None:
        """Drop a webhook from the store, and leave it alone at Asana.

        For one that Asana refuses to the token. Its deliveries are answered 404 from then on; if a
        webhook of its resource is kept, another one is established. Raises ValueError when the
        store does not hold it.
        """
        parts = self._parts()
        await parts.upkeep.forget(check_gid("gid", gid))
        parts.desired.lose(gid)

    async def prune(self, *, workspace: str | None = None, dry_run: bool = False) -> list[Webhook]:
        """Delete the webhooks that lead to ``public_url`` but whose secret the store does not hold.

        Returns them. Their deliveries are refused anyway. With ``dry_run`` nothing is deleted.
        ``workspace`` is the only one that is looked into; None: the client's, else each that the
        token sees.
        """
        parts = self._parts()
        if workspace is not None:
            check_gid("workspace", workspace)
        orphans = await parts.upkeep.find_orphans(workspace)
        for webhook in () if dry_run else orphans:
            await super().delete_webhook(webhook.gid)
        return orphans

    async def update_webhook(
        self,
        gid: str,
        *,
        filters: Sequence[WebhookFilter],
        opt_fields: Sequence[str] | None = None,
    ) -> Webhook:
        """Replace a webhook's filters at Asana, and in the store if it holds the webhook."""
        route = await self._route_of(gid)
        if route is None:
            return await super().update_webhook(gid, filters=filters, opt_fields=opt_fields)
        shared, desired = self._opened(), self._parts().desired
        async with desired.lock(route.resource):
            webhook = await super().update_webhook(gid, filters=filters, opt_fields=opt_fields)
            await shared.store.set_filters(route.id, filters)
            desired.set_filters(gid, filters)
            shared.reconciliation.filtered(route)
            return webhook

    async def delete_webhook(self, gid: str) -> None:
        """Delete a webhook at Asana, and retire its route if the store holds it.

        What was received before is still handled; what comes later is answered 404, by other
        processes that share the store within a second. It is looked after no longer, here and
        by them.
        """
        route = await self._route_of(gid)
        if route is None:
            await super().delete_webhook(gid)
            if self._has_store():  # it has none either while the webhook is to be replaced
                self._parts().desired.drop(gid)
            return
        shared, desired = self._opened(), self._parts().desired
        async with desired.lock(route.resource):
            await super().delete_webhook(gid)
            desired.drop(gid)
            await shared.store.retire(route.id)
            shared.endpoint.forget(route.id)

    async def _route_of(self, gid: str) -> Route | None:
        if not self._has_store():
            return None
        routes = await self._opened().store.list_routes(account=self.name)
        return next((route for route in routes if route.gid == gid), None)
