"""Asana's webhook operations over HTTP, and their pages.

Source: https://developers.asana.com/reference/webhooks
"""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx

from ._asana_responses import (
    Records,
    decode_created,
    decode_data,
    decode_nothing,
    decode_record,
    decode_records,
    decode_webhook,
    decode_webhooks,
    decode_workspaces,
)
from ._asana_transport import HTTP_CLIENT, AsanaTransport, kind_of
from ._budget import Priority
from ._fetch import Fetches, path_of
from ._logging import ThrottledLogger
from ._options import COUNT, NAMES, SECONDS, TEXT, Rule, check_options, optional
from ._request import Params, Request, check_request
from ._writes import Call, Writes
from .errors import ApiError, BadRequestError, NotFoundError, PermissionDeniedError
from .models import Event, Page, Resource, Webhook, WebhookFilter, check_gid

__all__ = [
    "REFUSALS",
    "TokenUser",
    "WebhooksApi",
    "check_filter_list",
    "check_timeout",
    "walk_webhooks",
]

logger = logging.getLogger(__name__)

T = TypeVar("T", Webhook, Resource)
R = TypeVar("R", Webhook, Resource, dict[str, Any])

MAX_RESTARTS = 2
"""How often a list is begun anew because the place to go on from expired at Asana."""

GONE = (404, 410)
"""Statuses by which Asana says that there is no such object."""

REFUSALS = (402, 403, 404, 451)
"""Statuses by which Asana refuses to list a workspace, and which say nothing of others."""


class WebhooksApi:
    """The calls that create, read, change and delete webhooks.

    ``token`` is a personal access token, or an ``httpx.Auth`` for anything else; None takes the
    first that is set of the variables ASANA_ACCESS_TOKEN, ASANA_PAT, ASANA_PERSONAL_ACCESS_TOKEN.
    ``base_url`` is where Asana is; None takes ASANA_BASE_URL, without it Asana itself.
    ``http_client`` replaces the connection pool; who gives one closes it, and may leave out the
    token when the client authenticates by itself. Each try ends after 30 seconds, and earlier
    where the given client's own timeouts say so.

    All calls of a token in one event loop, whichever object makes them, share its budget: 50 GETs
    and 15 other calls at once, no more than ``calls_per_minute`` (None: no such limit), and none
    while Asana's ``Retry-After`` wants none. What exceeds it waits, for its turn.

    Calls may run concurrently, in one event loop. Each raises an ApiError when Asana refuses it,
    ConnectionFailedError when no answer came, DecodeError when the answer is none of Asana's, and
    RuntimeError after ``aclose``, unless the object was entered again.

    Raises ValueError or TypeError for an option that cannot work, before any I/O.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None = None,
        *,
        base_url: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        calls_per_minute: int | None = None,
    ) -> None:
        given = {
            "base_url": base_url,
            "http_client": http_client,
            "calls_per_minute": calls_per_minute,
        }
        check_options(_OPTIONS, given)
        transport = AsanaTransport(
            token, base_url=base_url, http_client=http_client, calls_per_minute=calls_per_minute
        )
        self._call_over(transport)

    def _call_over(self, transport: AsanaTransport, user: TokenUser | None = None) -> None:
        """Make all calls over this transport, with its token."""
        self._transport = transport
        self._user = user or TokenUser(transport)
        self._fetches: Fetches | None = None
        self._log = ThrottledLogger(logger)
        self._writes: Writes | None = None  # kept by a client that has a store

    async def __aenter__(self) -> Self:
        """Return it. After ``aclose`` it may be entered again, in another event loop too."""
        self._transport.reopen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _plain(self) -> WebhooksApi:
        """Return these calls over the same connections, without what a subclass makes of them."""
        return self._over(self._transport)

    def _at(self, priority: Priority) -> WebhooksApi:
        """Return these calls plainly, with another priority."""
        return self._over(self._transport.at(priority))

    def _over(self, transport: AsanaTransport) -> WebhooksApi:
        """Return these calls plainly, over another transport with the same token."""
        api = WebhooksApi.__new__(WebhooksApi)
        api._call_over(transport, self._user)
        return api

    async def aclose(self) -> None:
        """Close the connections; a client that was given stays open. May be called twice."""
        await self._transport.aclose()

    # Any call

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the decoded ``data`` of Asana's answer: a dict, or a list.

        ``path`` is below ``base_url``, as "/tasks/1204619"; what stands in it besides letters and
        digits is percent-encoded. ``params`` are of the query: lists are joined by commas, None is
        left out. ``data`` are the fields that POST and PUT send, without "data" around them. Files
        cannot be sent. GET, PUT and DELETE are repeated after no answer and 5xx, all after 429.

        Raises ValueError or TypeError for a call that cannot be meant, before any I/O, and what
        each call raises. When a POST raises no ApiError below 500, Asana may have done it or not.

        Source: https://developers.asana.com/reference/rest-api-reference
        """
        call = check_request(method, path, params=params, data=data)
        if call.method == "GET":
            return decode_data(await self._transport.call("GET", call.path, call.query))
        transport = await self._transport.take_slot(kind_of(call.method, call.path))
        try:
            async with self._noting(call) as noted:
                answer = decode_data(
                    await transport.call(call.method, call.path, call.query, content=call.content)
                )
                noted.answered(answer)
                return answer
        finally:
            transport.leave_slot()

    @asynccontextmanager
    async def _noting(self, request: Request) -> AsyncIterator[Call]:
        """Surround a call that may change something, which is told what was answered."""
        if self._writes is None or not self._has_store():
            yield Call()
            return
        method, path, _, content = request
        user = await self._user.gid()
        async with self._writes.note(user=user, method=method, path=path, data=content) as call:
            yield call

    def _has_store(self) -> bool:
        """Return whether there is a store, and it is open."""
        return False

    async def iter_pages(
        self, path: str, *, params: Params | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the pages of a list, each a list of dicts, in Asana's order.

        ``path`` and ``params`` are those of ``request``; a ``limit`` among them is the size of a
        page, 100 unless given. When the place to go on from expires the list is begun anew, without
        what was yielded. Raises what ``request`` raises.

        Source: https://developers.asana.com/docs/pagination
        """
        call = check_request("GET", path, params={"limit": 100, **(params or {})}, data=None)
        async for page in self._pages(call.path, call.query, decode_records):
            yield page

    async def fetch(
        self, what: Event | Resource, *, opt_fields: Sequence[str] | None = None
    ) -> dict[str, Any] | None:
        """Return the object that an event names, as it is now; None when it is gone.

        It is not older than the event: calls at once for the same object and fields are one, whose
        answer serves all events that were received before it began, until something is written by
        the token, and for ten seconds at most. Of a ``deleted`` event Asana is not asked. Without
        ``opt_fields`` Asana chooses the fields.

        Raises PermissionDeniedError when the token may not see it, ValueError for an object whose
        type is not told or has no path of its own, and what each call raises.
        """
        _check_fetched(what)
        event = what if isinstance(what, Event) else None
        path = path_of(what.resource if isinstance(what, Event) else what)
        query = _query(opt_fields=opt_fields)
        if event is not None and event.action == "deleted":
            return None
        if self._fetches is None:
            self._fetches = Fetches(self._transport)
        try:
            return decode_record(await self._fetches.get(path, query, event))
        except ApiError as error:
            if error.status in GONE:
                return None
            raise

    async def me(self) -> dict[str, Any]:
        """Return Asana's record of the token's user; Asana is asked once.

        Source: https://developers.asana.com/reference/getuser
        """
        return copy.deepcopy(await self._user.record())

    def asana_now(self) -> datetime:
        """Return the time by Asana's clock, as its last answer told it; before any, by ours."""
        return self._transport.clock.now()

    async def create_webhook(
        self,
        resource: str,
        target: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        opt_fields: Sequence[str] | None = None,
        timeout: float = 60.0,
    ) -> Webhook:
        """Return the new webhook; its ``secret`` is None if Asana's answer held none.

        Asana answers after its handshake with the target, within ``timeout`` seconds or the try
        fails. The call is repeated only after a 429, so that it never makes two webhooks.

        Raises DuplicateWebhookError when the pair of resource and target has a webhook, and
        BadRequestError when the handshake failed. After ConnectionFailedError, ServerError and
        DecodeError the webhook may exist or not.

        Source: https://developers.asana.com/reference/createwebhook
        """
        check_timeout(timeout)
        check_options({"target": TEXT}, {"target": target})
        wanted: dict[str, Any] = {"resource": check_gid("resource", resource), "target": target}
        if filters is not None:
            check_filter_list(filters)
            wanted["filters"] = list(filters)
        query = _query(opt_fields=opt_fields)
        body = await self._transport.call(
            "POST", "/webhooks", query, content=wanted, seconds=timeout
        )
        return decode_created(body)

    async def get_webhook(self, gid: str, *, opt_fields: Sequence[str] | None = None) -> Webhook:
        """Return Asana's record of a webhook.

        Raises NotFoundError when there is none that this token may see.

        Source: https://developers.asana.com/reference/getwebhook
        """
        return decode_webhook(
            await self._transport.call("GET", _path(gid), _query(opt_fields=opt_fields))
        )

    async def get_webhooks(
        self,
        workspace: str,
        *,
        resource: str | None = None,
        limit: int | None = None,
        offset: str | None = None,
        opt_fields: Sequence[str] | None = None,
    ) -> Page[Webhook]:
        """Return a page of the webhooks that this app made for this user in a workspace.

        ``limit`` is 1 to 100; without it Asana answers no ``offset`` for a next page.

        Source: https://developers.asana.com/reference/getwebhooks
        """
        query = _list_query(workspace, resource, limit, opt_fields)
        query |= _query(offset=offset)
        body = await self._transport.call("GET", "/webhooks", query)
        return self._page("/webhooks", decode_webhooks(body))

    def iter_webhooks(
        self,
        workspace: str,
        *,
        resource: str | None = None,
        limit: int = 100,
        opt_fields: Sequence[str] | None = None,
    ) -> AsyncIterator[Webhook]:
        """Yield the webhooks of all pages in Asana's order; ``limit`` is the size of a page."""
        query = _list_query(workspace, resource, limit, opt_fields)
        return self._iterate("/webhooks", query, decode_webhooks)

    async def update_webhook(
        self,
        gid: str,
        *,
        filters: Sequence[WebhookFilter],
        opt_fields: Sequence[str] | None = None,
    ) -> Webhook:
        """Return the webhook with these filters in place of all that it had.

        Source: https://developers.asana.com/reference/updatewebhook
        """
        query = _query(opt_fields=opt_fields)
        check_filter_list(filters)
        wanted = {"filters": list(filters)}
        return decode_webhook(await self._transport.call("PUT", _path(gid), query, content=wanted))

    async def delete_webhook(self, gid: str) -> None:
        """Delete a webhook for good; one that does not exist is deleted already.

        A delivery that is in flight may still arrive.

        Source: https://developers.asana.com/reference/deletewebhook
        """
        path = _path(gid)
        try:
            decode_nothing(await self._transport.call("DELETE", path, {}))
        except NotFoundError:
            logger.debug("DELETE %s: there is no such webhook", path)

    def iter_workspaces(self) -> AsyncIterator[Resource]:
        """Yield the workspaces that the token's user may see.

        Source: https://developers.asana.com/reference/getworkspaces
        """
        return self._iterate("/workspaces", _query(limit=100), decode_workspaces)

    async def _iterate(
        self, path: str, query: dict[str, str], decode: Callable[[bytes], Records[T]]
    ) -> AsyncIterator[T]:
        async for page in self._pages(path, query, decode):
            for entry in page:
                yield entry

    async def _pages(
        self, path: str, query: dict[str, str], decode: Callable[[bytes], Records[R]]
    ) -> AsyncIterator[list[R]]:
        """Yield the pages of a list, without entries that were yielded before."""
        yielded: set[str] = set()
        offsets: set[str] = set()
        restarts, page_query = 0, query
        while True:
            try:
                page = self._page(path, decode(await self._transport.call("GET", path, page_query)))
            except BadRequestError:
                # Asana took the query of the first page, so it is the offset that it refuses.
                if page_query is query or restarts == MAX_RESTARTS:
                    raise
                restarts, page_query = restarts + 1, query
                offsets.clear()
                continue
            fresh = [entry for entry in page if _gid_of(entry) not in yielded]
            yielded.update(gid for gid in map(_gid_of, fresh) if gid)
            yield fresh
            if page.offset is None:
                return
            if page.offset in offsets:
                logger.warning("the pages of %s lead back to themselves: stopped", path)
                return
            offsets.add(page.offset)
            page_query = {**query, "offset": page.offset}

    def _page(self, path: str, records: Records[R]) -> Page[R]:
        if records.odd:
            text = "%d records of %s are not of the documented shape, and are left out: %s"
            self._log.log(logging.WARNING, path, text, len(records.odd), path, records.odd[0])
        return records.page


class TokenUser:
    """The user whose token makes the calls; Asana is asked once for each token.

    Source: https://developers.asana.com/reference/getuser
    """

    def __init__(self, transport: AsanaTransport) -> None:
        self._transport = transport
        self._lock = anyio.Lock()
        self._record: dict[str, Any] | PermissionDeniedError | None = None

    async def gid(self, *, within: float | None = None) -> str | None:
        """Return the user's gid; None when the token may not know it, for lack of a scope.

        Raises what any call raises; ``within`` is for how many seconds it may take, once the budget
        has room for it.
        """
        record = await self._ask(within)
        return None if isinstance(record, PermissionDeniedError) else record["gid"]

    async def record(self) -> dict[str, Any]:
        """Return Asana's record of the user. Raises what any call raises."""
        record = await self._ask(None)
        if isinstance(record, PermissionDeniedError):
            raise record.with_traceback(None)
        return record

    def forget(self) -> None:
        """Ask again next time: the token may be another user's from now on."""
        self._record = None

    async def _ask(self, within: float | None) -> dict[str, Any] | PermissionDeniedError:
        async with self._lock:
            if self._record is None:
                try:
                    body = await self._transport.call("GET", "/users/me", {}, within=within)
                    self._record = decode_record(body)
                except PermissionDeniedError as error:
                    self._record = error
            return self._record


async def walk_webhooks(
    api: WebhooksApi,
    refusals: dict[str, ApiError],
    *,
    workspace: str | None = None,
    resource: str | None = None,
    opt_fields: Sequence[str] | None = None,
) -> AsyncGenerator[Webhook, None]:
    """Yield the webhooks of one workspace, or of each that the token sees.

    Of several, one that Asana refuses to list does not end the walk: its gid and the error are put
    into ``refusals``. The refusal of the one that was asked for is raised.
    """
    if workspace is not None:
        async for webhook in api.iter_webhooks(workspace, resource=resource, opt_fields=opt_fields):
            yield webhook
        return
    async for each in api.iter_workspaces():
        try:
            async for webhook in api.iter_webhooks(
                each.gid, resource=resource, opt_fields=opt_fields
            ):
                yield webhook
        except ApiError as error:
            if error.status not in REFUSALS:
                raise
            refusals[each.gid] = error


_OPTIONS = {
    "base_url": optional(TEXT),
    "http_client": HTTP_CLIENT,
    "calls_per_minute": optional(COUNT, "None for no limit but Asana's"),
}
_QUERY = {
    "limit": optional(Rule((int,), "1 to 100", lambda value: 1 <= value <= 100)),
    "offset": optional(TEXT),
    "opt_fields": optional(NAMES),
}


def check_timeout(seconds: float) -> None:
    """Raise ValueError, TypeError for another type, for what is no time to wait."""
    check_options({"timeout": SECONDS}, {"timeout": seconds})


def check_filter_list(filters: object) -> None:
    """Raise TypeError for what is no list of filters."""
    items = filters if isinstance(filters, list | tuple) else (filters,)
    wrong = [item for item in items if not isinstance(item, WebhookFilter)]
    if items is filters and not wrong:
        return
    given = f"a list of {type(wrong[0]).__name__}" if items is filters else type(filters).__name__
    msg = f"filters must be a list of WebhookFilter(...), also when there is one, not {given}"
    raise TypeError(msg)


def _check_fetched(what: object) -> None:
    if not isinstance(what, Event | Resource):
        msg = f"fetch takes an Event or a Resource, not {type(what).__name__}"
        raise TypeError(msg)


def _gid_of(entry: Webhook | Resource | dict[str, Any]) -> str | None:
    return entry.get("gid") if isinstance(entry, dict) else entry.gid


def _path(gid: str) -> str:
    return f"/webhooks/{check_gid('gid', gid)}"


def _query(
    *,
    limit: int | None = None,
    offset: str | None = None,
    opt_fields: Sequence[str] | None = None,
) -> dict[str, str]:
    check_options(_QUERY, {"limit": limit, "offset": offset, "opt_fields": opt_fields})
    parts = {"limit": limit, "offset": offset, "opt_fields": ",".join(opt_fields or ()) or None}
    return {name: str(value) for name, value in parts.items() if value is not None}


def _list_query(
    workspace: str, resource: str | None, limit: int | None, opt_fields: Sequence[str] | None
) -> dict[str, str]:
    query = {"workspace": check_gid("workspace", workspace)}
    if resource is not None:
        query["resource"] = check_gid("resource", resource)
    return query | _query(limit=limit, opt_fields=opt_fields)
