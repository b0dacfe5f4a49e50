"""The server of the page: on 127.0.0.1 only, and only for pages of its own.

Any web page that somebody looks at may send requests to this machine. Browsers tell: a name that
was made to lead here (DNS rebinding) is in the header Host, a page that posts is in Origin, and
Sec-Fetch-Site says whether a page of another site asks. Programs of other users of this machine are
not kept away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiohttp
from aiohttp import web

from ..._dead_letters import iter_dead_letters
from ..._ledger import list_continuity
from ..._logging import ThrottledLogger
from ...errors import StoreError
from ...models import Continuity, DeadLetter, Delivery, Route
from ...stores import Store
from ..forwarding import post, session
from ..recording import Feed, Record, Recorder
from .page import read_page, shown_record, shown_route

__all__ = ["Action", "Inspector", "handle_again", "post_again"]

LOOK = 1.0
"""Seconds between looks at the webhooks while somebody watches."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


Action: TypeAlias = Callable[[Record], Awaitable[str]]
"""Does it, and returns one line for the page."""


class Inspector:
    """Serves the page while its context manager is entered; ``url`` is its address then.

    ``actions`` are what the page offers for each signed delivery, by the words on the button. Port
    0 takes any free one.
    """

    def __init__(
        self, recorder: Recorder, store: Store, *, actions: Mapping[str, Action], port: int
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._actions = actions
        self._port = port
        self._hosts: frozenset[str] = frozenset()
        self._routes: list[Route] = []
        self._continuity: dict[str, Continuity] = {}
        self._log = ThrottledLogger(logger)
        self._known: dict[str, Route] = {}
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page, allow_head=False)
        app.router.add_get("/stream", self._stream, allow_head=False)
        app.router.add_post("/records/{id:[0-9]{1,9}}/{action}", self._act)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        self._hosts = frozenset(f"{name}:{self._port}" for name in ("127.0.0.1", "localhost"))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tell the pages that it is over, and close."""
        self._recorder.close()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self._port}/"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host") not in self._hosts:
            return _refused("This page is at 127.0.0.1 and at localhost only.")
        if not _is_of_own_page(request, self._hosts):
            return _refused("Only the page itself may ask for this.")
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        text, policy = read_page()
        headers = HEADERS | {"Content-Security-Policy": policy}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _act(self, request: web.Request) -> web.Response:
        record = self._recorder.find(int(request.match_info["id"]))
        action = self._actions.get(request.match_info["action"])
        if record is None or action is None or not record.is_genuine:
            return _said(404, "There is no such delivery any more.")
        try:
            return _said(200, await action(record))
        except StoreError as error:
            return _said(503, str(error))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Tell all that is known, then what changes, until the page or the command ends."""
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self._recorder.following() as feed:
            try:
                async for message in self._messages(feed):
                    await response.write(message)
            except ConnectionError:
                pass  # the page was closed
        return response

    async def _messages(self, feed: Feed) -> AsyncIterator[bytes]:
        webhooks = await self._look()
        records = [self._shown(record) for record in self._recorder.records()]
        state = {"actions": [*self._actions], "webhooks": webhooks, "records": records}
        yield _message("state", state)
        while not feed.closed:
            changed = await feed.next(within=LOOK)
            before, webhooks = webhooks, await self._look()
            if webhooks != before:
                yield _message("webhooks", webhooks)
            for record in changed:
                yield _message("record", self._shown(record))
            yield b":\n\n"  # a page that is gone is noticed only when it is written to

    async def _look(self) -> list[dict[str, Any]]:
        """Return the webhooks as they are shown, as far as the store can tell."""
        try:
            self._routes = await self._store.list_routes()
            known = await list_continuity(self._store)
            self._continuity = {each.source.webhook: each for each in known}
        except StoreError:
            self._log.log(
                logging.WARNING, "routes", "the store failed; the page shows the last webhooks"
            )
        self._known |= {route.id: route for route in self._routes}
        return [shown_route(route, self._continuity.get(route.gid or "")) for route in self._routes]

    def _shown(self, record: Record) -> dict[str, Any]:
        return shown_record(record, self._known.get(record.route))


def post_again(receiver: Callable[[], str]) -> Action:
    """Return what posts a delivery to the receiver at its URL, as Asana does when it repeats."""

    async def act(record: Record) -> str:
        async with session() as http:
            try:
                status = await post(http, f"{receiver()}/{record.route}", record)
            except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
                return f"The receiver did not answer: {type(error).__name__}."
        return f"Posted; the receiver answered {status}."

    return act


def handle_again(recorder: Recorder, store: Store) -> Action:
    """Return what puts a delivery into the inbox once more.

    It is replayed as a dead letter: of any other the events are known, and not handed over.
    """

    async def act(record: Record) -> str:
        delivery = recorder.again(record)
        await store.put(delivery, reason="to be handled again")
        letters = iter_dead_letters(store)
        await store.replay([each.id async for each in letters if _is_of(each, delivery)])
        return "It is in the inbox; handlers are given it now."

    return act


def _is_of(letter: DeadLetter, delivery: Delivery) -> bool:
    return (letter.route, letter.received_at) == (delivery.route, delivery.received_at)


def _is_of_own_page(request: web.Request, hosts: Collection[str]) -> bool:
    """Return whether a page at one of these hosts asks, or, unless it is a post, no page at all.

    The page itself may be opened from anywhere: by a link, for example. Source:
    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin") and request.path != "/":
        return False
    if origin is None:
        return request.method != "POST"
    return origin in {f"http://{host}" for host in hosts}


def _message(kind: str, content: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


def _said(status: int, text: str) -> web.Response:
    return web.json_response({"said": text}, status=status, headers=HEADERS)


def _refused(text: str) -> web.Response:
    return web.Response(status=403, text=f"{text}\n", headers=HEADERS)
