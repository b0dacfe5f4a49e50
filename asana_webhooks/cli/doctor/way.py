"""Checks of the way from the public URL to the store: a handshake and signed heartbeats of ours.

They are posted to a throw-away route, so that no webhook and no handler sees anything of them.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from ..._establish import ROUTE_ID_LENGTH
from ..._logging import one_line
from ..._sightings import BAD_REQUEST, BODY_LATE
from ...errors import StoreError
from ...models import Route
from ...protocol import BAD_SIGNATURE, ENCODED, TOO_LARGE, UNKNOWN_ROUTE, WRONG_SIGNATURE
from ...signature import sign
from ...stores import Store
from ...stores.urls import open_store
from ..webhooks import is_missing
from .address import asking
from .finding import Finding, failed, ok, warning

__all__ = ["way_findings"]

LIVES_FOR = 120.0
"""Seconds after which the store forgets the route, should this process be killed."""

BODIES = {
    "every byte": b'{"events":[]}',
    "blanks": b'{ "events" :  [ ] }',
    "line ends": b'{"events":[]}\r\n',
    "escapes": rb'{"events":[],"written":"\u00e9\/"}',
    "letters beyond ASCII": '{"events":[],"written":"é"}'.encode(),
}
"""Heartbeats by what is lost when their signature does not fit on arrival."""

ODD = '{ "events" :  [ ],\r\n "written": "\\u00e9\\/é" }\r\n'.encode()
"""A heartbeat with all of that."""

LARGE = b'{"events":[],"written":"%b"}' % (b"x" * 500_000)
"""A heartbeat of the size of a large delivery."""

CAUSES = {
    ENCODED.reason: "a Content-Encoding was added: a proxy compresses requests",
    TOO_LARGE.reason: "the receiver found the body too large",
    BODY_LATE.reason: "the body did not arrive in time: a proxy holds it back",
    BAD_REQUEST.reason: "the body arrived shorter than announced",
}

UNALTERED = "let the proxies and gateways on the way pass requests on as they come"


async def way_findings(public_url: str, store_url: str) -> AsyncIterator[Finding]:
    """Yield whether a handshake and signed bodies get through, and what is lost on the way."""
    if store_url.partition(":")[0] == "memory" or is_missing(store_url):
        step = "name the store of the receiver with --store"
        yield warning("way", "it is not proved: this is not the store of a receiver", step)
        return
    try:
        async with (
            open_store(store_url) as store,
            _throw_away_route(store, public_url) as route,
            asking(public_url) as client,
        ):
            way = _Way(client, store, route)
            yield await way.handshake()
            if way.is_answerable:
                yield await way.signature()
                yield await way.large_body()
    except StoreError as error:
        yield failed("way", str(error), "mend the store")


@asynccontextmanager
async def _throw_away_route(store: Store, public_url: str) -> AsyncIterator[Route]:
    route_id = secrets.token_urlsafe(ROUTE_ID_LENGTH * 3 // 4)
    target = f"{public_url.rstrip('/')}/{route_id}"
    route = Route(id=route_id, target=target, resource="0")
    await store.reserve(route, ttl=LIVES_FOR)
    try:
        yield route
    finally:
        await store.drop(route_id)


class _Way:
    """Posts to a reserved route; ``is_answerable`` once the store has the handshake's secret."""

    def __init__(self, client: httpx.AsyncClient, store: Store, route: Route) -> None:
        self._client = client
        self._store = store
        self._route = route
        self._secret = secrets.token_hex(32)
        self.is_answerable = False

    async def handshake(self) -> Finding:
        check = "handshake"
        answer = await self._post(b"{}", {"X-Hook-Secret": self._secret})
        if isinstance(answer, str):
            return failed(check, answer, UNALTERED)
        route = await self._store.get_route(self._route.id)
        candidates = route.candidates if route is not None else ()
        self.is_answerable = self._secret in candidates
        if not self.is_answerable:
            return _unheard(answer, was_changed=bool(candidates))
        echo = answer.headers.get("X-Hook-Secret", "")
        if answer.status_code != 200:
            found = f"the receiver answered 200, and {answer.status_code} came back"
            return failed(check, found, "let the proxies pass answers on as they come")
        if not hmac.compare_digest(echo.encode(), self._secret.encode()):
            change = "changed" if echo else "lost"
            found = f"the header X-Hook-Secret of the answer was {change} on the way back"
            return failed(check, found, "let the proxies pass this header in both directions")
        return ok(check, "X-Hook-Secret arrives, and comes back")

    async def signature(self) -> Finding:
        check = "signature"
        said = await self._deliver(ODD)
        if not said:
            return ok(check, "signed bodies arrive byte for byte")
        if said == BAD_SIGNATURE.reason:
            found = "the header X-Hook-Signature was lost or changed on the way"
            return failed(check, found, "let the proxies pass this header")
        if said != WRONG_SIGNATURE.reason:
            return failed(check, CAUSES.get(said, said), UNALTERED)
        lost = [name for name, body in BODIES.items() if await self._deliver(body)]
        found = f"bodies are changed on the way: {', '.join(lost) or 'now and then'}"
        step = "let no gateway or middleware parse, write anew or re-encode bodies"
        return failed(check, found, step)

    async def large_body(self) -> Finding:
        check = "large body"
        said = await self._deliver(LARGE)
        if not said:
            return ok(check, f"{len(LARGE) // 1000} kB arrive")
        step = "allow bodies of 2 MB in all proxies (nginx: client_max_body_size)"
        return failed(check, f"{len(LARGE) // 1000} kB: {CAUSES.get(said, said)}", step)

    async def _deliver(self, body: bytes) -> str:
        """Return why a signed body was refused, '' when it was taken."""
        answer = await self._post(body, {"X-Hook-Signature": sign(body, self._secret)})
        if isinstance(answer, str):
            return answer
        return "" if answer.status_code == 200 else _reason(answer)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response | str:
        """Return the answer, or why there is none."""
        headers = {"Content-Type": "application/json", **headers}
        try:
            return await self._client.post(self._route.target, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"no answer: {type(error).__name__}"


def _unheard(answer: httpx.Response, *, was_changed: bool) -> Finding:
    """Return why the store has no secret of a handshake that was answered."""
    check, said = "handshake", _reason(answer)
    if was_changed:
        found, step = "the header X-Hook-Secret was changed on the way", UNALTERED
    elif said == BAD_SIGNATURE.reason:
        found = "the header X-Hook-Secret was lost on the way"
        step = "let the proxies pass this header in both directions"
    elif said == UNKNOWN_ROUTE.reason:
        found = "the receiver does not know a route of this store"
        step = "name its store with --store; see that nothing changes the path on the way"
    else:
        found, step = CAUSES.get(said, f"no receiver got it: {said}"), UNALTERED
    return failed(check, found, step)


def _reason(answer: httpx.Response) -> str:
    """Return the line with which a receiver refuses, or the status when it is none of those."""
    known = {BAD_SIGNATURE.reason, WRONG_SIGNATURE.reason, UNKNOWN_ROUTE.reason, *CAUSES}
    text = one_line(answer.text.strip())
    return text if text in known else f"the answer was {answer.status_code}"
