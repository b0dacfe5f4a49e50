"""Checks of the way to Asana: the token, what it may do, and the clock."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click
import httpx
import msgspec

from ..._asana_connections import check_base_url, find_proxy
from ..._asana_http import make_client
from ..._asana_responses import accept, unanswered
from ..._asana_transport import find_auth
from ...api import REFUSALS
from ...errors import (
    ApiError,
    AsanaWebhooksError,
    DecodeError,
    PermissionDeniedError,
    StoreError,
)
from ..access import Access
from .finding import Finding, failed, ok, warning

__all__ = ["asana_findings", "clock_finding"]

SKEW, LARGEST_SKEW = 60.0, 3_600.0
"""Seconds that the clock may differ: worth a word; and too much.

Deliveries are judged by the age of their events, with two hours to spare.
"""

SCOPES = ("webhooks:read", "webhooks:write", "webhooks:delete")

_SCOPE = re.compile(r"[a-z_]+:(?:read|write|delete)")


class _Calls:
    """Reads from Asana; ``date`` is the last answer's header, and ``at`` when it came."""

    def __init__(self, client: httpx.AsyncClient, base_url: str, auth: httpx.Auth) -> None:
        self._client, self._base_url, self._auth = client, base_url, auth
        self.date: str | None = None
        self.at = datetime.now(UTC)

    async def get(self, path: str) -> Any:
        """Return what is below ``data``; raises an AsanaWebhooksError when that cannot be had."""
        url = f"{self._base_url}{path}"
        request = self._client.build_request("GET", url, headers={"Accept": "application/json"})
        try:
            response = await self._client.send(request, auth=self._auth)
        except (httpx.RequestError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            raise unanswered(error, method="GET", host=urlsplit(url).netloc) from error
        self.at, self.date = datetime.now(UTC), response.headers.get("Date")
        body = accept(response.status_code, response.headers.get("Retry-After"), response.content)
        try:
            return msgspec.json.decode(body)["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            msg = "the answer is none of Asana's"
            raise DecodeError(msg) from None


async def asana_findings(access: Access) -> AsyncIterator[Finding]:
    """Yield whether the token works, what it lacks, and how far the clock is off."""
    try:
        base_url = check_base_url(access.base_url)
        proxy = find_proxy(base_url)
    except ValueError as error:
        yield failed("base URL", str(error), "check --base-url, and the proxies of the environment")
        return
    try:
        auth = find_auth(access.token(), None)
    except (ValueError, click.ClickException) as error:
        step = "or make a token in Asana's developer console, and set ASANA_ACCESS_TOKEN"
        yield failed("token", str(error), step)
        return
    assert auth is not None  # noqa: S101 - it is None only for a client that was given
    async with make_client(proxy) as client:
        calls = _Calls(client, base_url, auth)
        yield await _token(calls)
        if calls.date is not None:
            yield await _webhooks(calls)
            yield clock_finding(calls.date, calls.at)


async def _token(calls: _Calls) -> Finding:
    try:
        user = await calls.get("/users/me")
    except PermissionDeniedError as error:
        if scopes := _scopes(error.errors):  # needed for nothing else
            return ok("token", f"it may not tell whose it is, without {', '.join(scopes)}")
        return _refused("token", error)
    except AsanaWebhooksError as error:
        return _refused("token", error)
    return ok("token", f"it is {_name(user)}'s")


def _name(user: Any) -> str:
    known = user if isinstance(user, dict) else {}
    return " ".join(str(known[key]) for key in ("name", "gid") if key in known) or "somebody"


async def _webhooks(calls: _Calls) -> Finding:
    check, readable, refusals = "webhooks", 0, dict[str, ApiError]()
    try:
        for gid in await _workspaces(calls):
            try:
                await calls.get(f"/webhooks?workspace={gid}&limit=1")
                readable += 1
            except ApiError as error:
                if error.status not in REFUSALS:
                    raise
                refusals[gid] = error
    except PermissionDeniedError as error:
        return _missing(check, error)
    except AsanaWebhooksError as error:
        return _refused(check, error)
    if refusals and not readable:
        return _missing(check, next(iter(refusals.values())))
    if refusals:
        said = "; ".join(f"{gid}: {_said(error)}" for gid, error in refusals.items())
        step = "ask who administers them for access; `list` and `prune` leave them out"
        return warning(check, f"the token may not read those of every workspace: {said}", step)
    if not readable:
        return warning(check, "the token sees no workspace", "let its user join one")
    return ok(check, f"the token may read them; workspaces that it sees: {readable}")


async def _workspaces(calls: _Calls) -> list[str]:
    """Return the gids of the workspaces that the token sees; what has none is left out."""
    records = await calls.get("/workspaces?limit=100")
    return [str(each["gid"]) for each in records if isinstance(each, dict) and "gid" in each]


def _missing(check: str, error: ApiError) -> Finding:
    scopes = _scopes(error.errors)
    if not scopes:
        return _refused(check, error)
    needed = ", ".join(dict.fromkeys([*SCOPES, *scopes]))
    step = f"give the token's app the scopes {needed}; after that, a login must be made anew"
    return failed(check, f"the token lacks {', '.join(scopes)}", step)


def _scopes(said: Sequence[str]) -> list[str]:
    return sorted({scope for text in said for scope in _SCOPE.findall(text)})


def _refused(check: str, error: AsanaWebhooksError) -> Finding:
    if isinstance(error, ApiError):
        return failed(check, _said(error), error.hint or "check --base-url")
    if isinstance(error, StoreError):  # of the login's file
        return failed(check, str(error), "or set ASANA_ACCESS_TOKEN")
    return failed(check, str(error), "check --base-url, the network and the proxies on the way")


def _said(error: ApiError) -> str:
    said = "; ".join(error.errors) or "no explanation in the body"
    return f"Asana answered {error.status}: {said}"


def clock_finding(date: str, at: datetime) -> Finding:
    """Return how far the clock, which read ``at``, is from the header of an answer."""
    try:
        theirs = parsedate_to_datetime(date).astimezone(UTC)
    except (ValueError, OverflowError):
        return warning("clock", "Asana's answer has no readable date", "check the clock yourself")
    seconds = (at - theirs).total_seconds()
    found = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} Asana's"
    step = "let this machine set its clock by NTP"
    if abs(seconds) > LARGEST_SKEW:
        return failed("clock", found, step)
    return warning("clock", found, step) if abs(seconds) > SKEW else ok("clock", found)
