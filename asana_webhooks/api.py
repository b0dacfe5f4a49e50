"""Asana's webhook operations over HTTP: calls, retries and pages.

=====================  ==========================================================================
operation              is repeated after
=====================  ==========================================================================
GET, PUT, DELETE       no answer, 429, 500, 502, 503, 504
POST                   429 only: it was refused, so it had no effect; after any other failure it
                       may have had one, and Asana takes no key that would make a repeat harmless
=====================  ==========================================================================

Up to 5 tries, with exponential back-off and jitter; none follows a failure that comes later than
45 seconds after the start. A ``Retry-After`` of up to a minute is waited for. A longer one, or one
that outlasts a timeout of anyio around the call, is the caller's to wait: the error is raised at
once.

Source: https://developers.asana.com/reference/webhooks
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import anyio
import httpx
import msgspec
import stamina

from ._asana_responses import (
    accept,
    decode_created,
    decode_nothing,
    decode_webhook,
    decode_webhooks,
    decode_workspaces,
    is_untrusted,
    unanswered,
)
from ._asana_transport import (
    CALL_SECONDS,
    CONNECT_SECONDS,
    check_base_url,
    find_auth,
    find_proxy,
    make_client,
)
from .errors import (
    AsanaWebhooksError,
    ConnectionFailedError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from .models import Page, Resource, Webhook, WebhookFilter, check_gid

__all__ = ["WebhooksApi", "check_timeout"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ANSWER = 10 * 1024 * 1024
LONGEST_WAIT = 60.0

_retrying = stamina.AsyncRetryingCaller(
    attempts=5, timeout=45.0, wait_initial=0.5, wait_max=10.0, wait_jitter=1.0
)


class WebhooksApi:
    """The calls that create, read, change and delete webhooks.

    ``token`` is a personal access token, or an ``httpx.Auth`` for anything else; None takes the
    first that is set of the variables ASANA_ACCESS_TOKEN, ASANA_PAT, ASANA_PERSONAL_ACCESS_TOKEN.
    ``http_client`` replaces the connection pool; who gives one closes it, and may leave out the
    token when the client authenticates by itself. Each try ends after 30 seconds, and earlier
    where the given client's own timeouts say so.

    Calls may run concurrently, in one event loop. Each raises an ApiError when Asana refuses it,
    ConnectionFailedError when no answer came, DecodeError when the answer is none of Asana's, and
    RuntimeError after ``aclose``.

    Raises ValueError for a token or a base URL that cannot work, before any I/O.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None = None,
        *,
        base_url: str = "https://app.asana.com/api/1.0",
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._base_url = check_base_url(base_url)
        self._auth = find_auth(token, http_client)
        self._proxy = find_proxy(self._base_url) if http_client is None else None
        self._given = http_client
        self._own: httpx.AsyncClient | None = None
        self._closed = False
        self._announced: set[str] = set()

    async def __aenter__(self) -> Self:
        """Return it. Raises RuntimeError after ``aclose``."""
        self._check_not_closed()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; a client that was given stays open. May be called twice."""
        self._closed = True
        if self._own is not None:
            await self._own.aclose()

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
        wanted: dict[str, Any] = {"resource": check_gid("resource", resource), "target": target}
        if filters is not None:
            wanted["filters"] = list(filters)
        query = _query(opt_fields=opt_fields)
        body = await self._call("POST", "/webhooks", query, content=wanted, seconds=timeout)
        return decode_created(body)

    async def get_webhook(self, gid: str, *, opt_fields: Sequence[str] | None = None) -> Webhook:
        """Return Asana's record of a webhook.

        Raises NotFoundError when there is none that this token may see.

        Source: https://developers.asana.com/reference/getwebhook
        """
        return decode_webhook(await self._call("GET", _path(gid), _query(opt_fields=opt_fields)))

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
        return decode_webhooks(await self._call("GET", "/webhooks", query))

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
        wanted = {"filters": list(filters)}
        return decode_webhook(await self._call("PUT", _path(gid), query, content=wanted))

    async def delete_webhook(self, gid: str) -> None:
        """Delete a webhook for good; one that does not exist is deleted already.

        A delivery that is in flight may still arrive.

        Source: https://developers.asana.com/reference/deletewebhook
        """
        path = _path(gid)
        try:
            decode_nothing(await self._call("DELETE", path, {}))
        except NotFoundError:
            logger.debug("DELETE %s: there is no such webhook", path)

    def iter_workspaces(self) -> AsyncIterator[Resource]:
        """Yield the workspaces that the token's user may see.

        Source: https://developers.asana.com/reference/getworkspaces
        """
        return self._iterate("/workspaces", _query(limit=100), decode_workspaces)

    async def _iterate(
        self, path: str, query: dict[str, str], decode: Callable[[bytes], Page[T]]
    ) -> AsyncIterator[T]:
        seen: set[str] = set()
        while True:
            page = decode(await self._call("GET", path, query))
            for entry in page:
                yield entry
            if page.offset is None:
                return
            if page.offset in seen:
                logger.warning("the pages of %s lead back to themselves: stopped", path)
                return
            seen.add(page.offset)
            query = {**query, "offset": page.offset}

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        *,
        content: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> bytes:
        address = f"{path}?{urlencode(query)}" if query else path
        options: dict[str, Any] = {"headers": {"Accept": "application/json"}}
        if content is not None:
            options["content"] = msgspec.json.encode({"data": content})
            options["headers"]["Content-Type"] = "application/json"
        if seconds is not None:
            options["timeout"] = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        call = functools.partial(self._try, method, address, seconds or CALL_SECONDS, options)
        try:
            return await call()
        except AsanaWebhooksError as error:
            again = _again_if_refused if method == "POST" else _again_if_transient
            return await _retrying(again, _after(error, call))

    async def _try(
        self, method: str, address: str, seconds: float, options: dict[str, Any]
    ) -> bytes:
        client = self._client()
        auth = {} if self._auth is None else {"auth": self._auth}
        try:
            request = client.build_request(method, f"{self._base_url}{address}", **options)
            # httpx limits each read; this limits the whole, however slowly it drips.
            async with asyncio.timeout(seconds):
                response = await client.send(request, stream=True, follow_redirects=False, **auth)
                async with contextlib.aclosing(response):
                    body = await _read(response)
        except (httpx.RequestError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            host = urlsplit(self._base_url).netloc
            raise unanswered(error, method=method, host=host) from error
        logger.debug("%s %s: %d", method, address, response.status_code)
        self._announce(response.headers.get("Asana-Change", ""))
        return accept(response.status_code, response.headers.get("Retry-After"), body)

    def _check_not_closed(self) -> None:
        if self._closed:
            msg = "this client was closed; make a new one"
            raise RuntimeError(msg)

    def _client(self) -> httpx.AsyncClient:
        self._check_not_closed()
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = make_client(self._proxy)
        return self._own

    def _announce(self, changes: str) -> None:
        # Asana warns of deprecations here: https://developers.asana.com/docs/deprecations
        for change in _CHANGES.split(changes):
            text = change.strip()[:200]
            if text and text not in self._announced and len(self._announced) < 100:
                self._announced.add(text)
                logger.warning("Asana announces a change of its API: %r", text)


_CHANGES = re.compile(r",(?=\s*name=)")


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body, None when it is larger than MAX_ANSWER or badly compressed."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER:
                return None
    except httpx.DecodingError:
        return None
    return bytes(body)


def _after(
    error: AsanaWebhooksError, call: Callable[[], Awaitable[T]]
) -> Callable[[], Awaitable[T]]:
    """Return the call, failing with this error the first time: so it failed before.

    A call that succeeds at once, as nearly all do, never comes to the machinery of retries.
    """
    errors = [error]

    async def again() -> T:
        if errors:
            raise errors.pop()
        return await call()

    return again


def _again_if_refused(error: Exception) -> bool | float:
    """Return whether to repeat a call that Asana refused to look at, or after how many seconds."""
    if not isinstance(error, RateLimitedError):
        return False
    if error.retry_after is None:
        return True
    # All who were refused hear the same number; they should not come back as one.
    wait = error.retry_after + random.uniform(0.0, 1.0)  # noqa: S311 - nothing to be guessed
    left = anyio.current_effective_deadline() - anyio.current_time()
    return error.retry_after <= LONGEST_WAIT and wait < left and wait


def _again_if_transient(error: Exception) -> bool | float:
    """Return whether to repeat a call that is harmless to repeat, or after how many seconds."""
    if isinstance(error, ConnectionFailedError):
        return not is_untrusted(error)
    if isinstance(error, ServerError):
        return error.status in (500, 502, 503, 504)
    return _again_if_refused(error)


def check_timeout(seconds: float) -> None:
    """Raise ValueError for what is no time to wait."""
    if not 0 < seconds < float("inf"):
        msg = "timeout must be seconds, more than 0 and less than forever"
        raise ValueError(msg)


def _path(gid: str) -> str:
    return f"/webhooks/{check_gid('gid', gid)}"


def _query(
    *,
    limit: int | None = None,
    offset: str | None = None,
    opt_fields: Sequence[str] | None = None,
) -> dict[str, str]:
    if limit is not None and not 1 <= limit <= 100:
        msg = "limit must be 1 to 100"
        raise ValueError(msg)
    fields = opt_fields if isinstance(opt_fields, str) else ",".join(opt_fields or ())
    parts = {"limit": limit, "offset": offset, "opt_fields": fields or None}
    return {name: str(value) for name, value in parts.items() if value is not None}


def _list_query(
    workspace: str, resource: str | None, limit: int | None, opt_fields: Sequence[str] | None
) -> dict[str, str]:
    query = {"workspace": check_gid("workspace", workspace)}
    if resource is not None:
        query["resource"] = check_gid("resource", resource)
    return query | _query(limit=limit, opt_fields=opt_fields)
