"""Checks of the public URL: its name, its certificate, and who answers there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from ..._addresses import is_public
from ..._asana_connections import find_proxy
from ..._endpoint import ALIVE
from ..._establish import ROUTE_ID_LENGTH, check_public_url
from ...protocol import UNKNOWN_ROUTE
from .finding import Finding, captured, failed, ok, warning

__all__ = ["ROUTE_CHECK", "address_findings", "asking", "certificate_finding"]

TIMEOUT = 10.0
"""Seconds that Asana waits for an answer."""

ENDS_SOON = 14
"""Days before its end at which a certificate should have been renewed."""

ROUTE_CHECK = "unknown route"
"""The last check of an address: when it is ok, a receiver answers posts there."""

START = "start the receiver (`asana-webhooks serve`), and lead this address to it"


async def address_findings(public_url: str | None, base_url: str) -> AsyncIterator[Finding]:
    """Yield what is so of the address; what depends on a check that failed is left out."""
    written = _written(public_url, base_url)
    yield written
    if public_url is None or written.result == "failed":
        return
    url = urlsplit(public_url)
    resolved = await _resolved(url, base_url)
    yield resolved
    if resolved.result == "failed":
        return
    if url.scheme == "https":
        yield await _certificate(url)
    async with asking(public_url) as client:
        place = public_url.rstrip("/")
        reached = await _reached(client, place)
        yield reached
        if reached.result != "failed":
            yield await _refuses_strangers(client, place)


def asking(public_url: str) -> httpx.AsyncClient:
    """Return a client, not entered yet, that asks at this address as Asana would."""
    return httpx.AsyncClient(
        proxy=find_proxy(public_url),
        trust_env=False,  # it would ask a proxy for this machine
        verify=httpx.create_ssl_context(),
        timeout=TIMEOUT,
    )


def _written(public_url: str | None, base_url: str) -> Finding:
    check = "public URL"
    if public_url is None:
        step = "name it with --public-url or ASANA_WEBHOOKS_PUBLIC_URL"
        return warning(check, "none was given, so no address is checked", step)
    try:
        with captured("asana_webhooks._establish") as said:
            check_public_url(public_url, base_url)
            urlsplit(public_url).port  # noqa: B018 - it raises for one that is none
    except ValueError as error:
        return failed(check, str(error), "write it as https://host/path")
    if said:
        return warning(check, "; ".join(said), "put TLS in front of the receiver")
    return ok(check, "it is one that Asana takes")


async def _resolved(url: SplitResult, base_url: str) -> Finding:
    check, host = "name", url.hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, url.port or url.scheme, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a name
        reason = getattr(error, "strerror", None) or type(error).__name__
        return failed(check, f"{host} is not resolved: {reason}", "check the DNS record")
    addresses = sorted({str(address[0]) for *_, address in found})
    text = f"{host} is {', '.join(addresses)}"
    if is_public(urlsplit(base_url).hostname or "") and not any(map(is_public, addresses)):
        return warning(check, f"{text} from here", "check that it is a public address elsewhere")
    return ok(check, text)


async def _certificate(url: SplitResult) -> Finding:
    check = "certificate"
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(
                url.hostname, url.port or 443, ssl=httpx.create_ssl_context()
            )
    except ssl.SSLCertVerificationError as error:
        step = "renew it, and serve it with the whole chain"
        return failed(check, f"it is not valid: {error.verify_message}", step)
    except (OSError, TimeoutError) as error:
        step = "check that this port speaks TLS, and that nothing is in the way"
        return failed(check, f"there is none to see: {type(error).__name__}", step)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    with contextlib.suppress(OSError):  # what was to be seen was seen
        await writer.wait_closed()
    return certificate_finding(certificate, time.time())


def certificate_finding(certificate: dict[str, Any], now: float) -> Finding:
    """Return for how long a trusted certificate is still valid, at a time (Unix seconds)."""
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - now) / 86_400
    found = f"it is valid for {days:.0f} days"
    if days < ENDS_SOON:
        return warning("certificate", found, "see why it was not renewed yet")
    return ok("certificate", found)


async def _reached(client: httpx.AsyncClient, place: str) -> Finding:
    check = "receiver"
    try:
        response = await client.get(f"{place}/healthz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failed(check, f"no answer from there: {type(error).__name__}", START)
    if response.status_code != ALIVE.status:
        return failed(check, f"/healthz was answered {response.status_code}, not 200", START)
    if response.text.strip() != ALIVE.reason:
        step = "see what answers there; a receiver behind it was not asked"
        return warning(check, "/healthz was answered 200, but not by a receiver", step)
    return ok(check, "/healthz was answered 200")


async def _refuses_strangers(client: httpx.AsyncClient, place: str) -> Finding:
    check = ROUTE_CHECK
    route = secrets.token_urlsafe(ROUTE_ID_LENGTH * 3 // 4)
    try:
        response = await client.post(f"{place}/{route}", content=b"{}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failed(check, f"no answer to a post: {type(error).__name__}", START)
    status = response.status_code
    if status != UNKNOWN_ROUTE.status:
        step = "see that proxies pass POST with the whole path, and that this is our receiver"
        return failed(check, f"a post was answered {status}, not 404", step)
    if response.text.strip() != UNKNOWN_ROUTE.reason:
        step = "see that the proxies in front of it pass posts on"
        return warning(check, "a post was answered 404, but not by a receiver", step)
    return ok(check, "a post was answered 404, as by a receiver")
