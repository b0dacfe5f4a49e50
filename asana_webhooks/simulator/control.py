"""Control calls: other processes drive the local Asana as no call of Asana's API can.

The calls are below ``/-/control``, take a JSON object and answer ``{"data": …}``, or an error in
Asana's shape. They need no token; only processes of this machine may call, and no web page.

================  ============================================  ==================================
call              body                                          what it does
================  ============================================  ==================================
GET /state        none                                          shows the time and the faults
POST /advance     days, hours, minutes, seconds: added up       lets time pass, as ``advance``
POST /faults      on, off: lists of names; webhook: a gid, if   switches faults on and off; the
                  they are of one webhook                       waits of a slow one end with it
POST /settled     timeout: seconds, 10 unless given             returns when nothing is under way;
                                                                504 when that takes too long
POST /undelete    gid                                           brings a deleted object back
POST /emit        resource: a gid; events: a list               sends events as they are
================  ============================================  ==================================
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from .faults import Fault, Faults
from .responses import Refused, answer
from .state import WebhookRecord, timestamp

__all__ = ["CONTROL", "Driven", "control"]

CONTROL = "/-/control"

FROM_PAGES = frozenset({"Origin", "Sec-Fetch-Site"})
"""Headers that only browsers send, for calls of pages."""

T = TypeVar("T")


class Driven(Protocol):
    """The local Asana, as far as it is driven from here."""

    faults: Faults
    webhooks: Mapping[str, WebhookRecord]
    release_handshake: asyncio.Event
    release_201: asyncio.Event
    release_stream: asyncio.Event

    @property
    def now(self) -> datetime: ...  # noqa: D102 - the methods are those of AsanaSimulator

    async def advance(  # noqa: D102 - likewise
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None: ...
    async def settled(self) -> None: ...  # noqa: D102 - likewise
    async def undelete(self, gid: str) -> None: ...  # noqa: D102 - likewise
    async def emit(self, resource: str, *events: Mapping[str, Any]) -> None: ...  # noqa: D102 - likewise


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Advance(_Input):
    days: float = 0
    hours: float = 0
    minutes: float = 0
    seconds: float = 0


class _Switches(_Input):
    on: list[str] = []
    off: list[str] = []
    webhook: str | None = None


class _Settled(_Input):
    timeout: float = 10.0


class _Undelete(_Input):
    gid: str


class _Emit(_Input):
    resource: str
    events: list[dict[str, Any]]


def control(asana: Driven) -> web.Application:
    """Return the calls that drive this Asana, to be mounted at ``CONTROL``."""
    calls = _Calls(asana)
    app = web.Application(middlewares=[_guard])
    app.add_routes(
        [
            web.get("/state", calls.show),
            web.post("/advance", calls.advance),
            web.post("/faults", calls.switch),
            web.post("/settled", calls.settled),
            web.post("/undelete", calls.undelete),
            web.post("/emit", calls.emit),
        ]
    )
    return app


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pass on calls of processes of this machine; turn errors into answers."""
    try:
        from_page = not FROM_PAGES.isdisjoint(request.headers)
        if from_page or not _is_here(request.remote):
            raise Refused(403, "Only processes of this machine may call, and no web page")
        return await handler(request)
    except Refused as refusal:
        return refusal.answer()
    except TimeoutError as error:
        return Refused(504, str(error)).answer()
    except (ValueError, OverflowError) as error:
        return Refused(400, str(error)).answer()


def _is_here(address: str | None) -> bool:
    return address is not None and ipaddress.ip_address(address).is_loopback


async def _read(request: web.Request, kind: type[T]) -> T:
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


class _Calls:
    def __init__(self, asana: Driven) -> None:
        self._asana = asana
        self._waits = {
            Fault.SLOW_HANDSHAKE: asana.release_handshake,
            Fault.SLOW_201: asana.release_201,
            Fault.SLOW_STREAM: asana.release_stream,
        }

    async def show(self, request: web.Request) -> web.Response:
        faults = sorted(self._asana.faults)
        return answer({"data": {"now": timestamp(self._asana.now), "faults": faults}})

    async def advance(self, request: web.Request) -> web.Response:
        given = await _read(request, _Advance)
        await self._asana.advance(**msgspec.structs.asdict(given))
        return await self.show(request)

    async def switch(self, request: web.Request) -> web.Response:
        given = await _read(request, _Switches)
        faults = self._faults(given.webhook)
        type(faults)([*given.on, *given.off])  # raises before anything is switched
        for name in given.on:
            faults.add(name)
            if wait := self._waits.get(Fault(name)):
                wait.clear()
        for name in given.off:
            faults.discard(name)
            if wait := self._waits.get(Fault(name)):
                wait.set()
        return answer({"data": {"faults": sorted(faults)}})

    def _faults(self, webhook: str | None) -> Faults:
        if webhook is None:
            return self._asana.faults
        if webhook not in self._asana.webhooks:
            raise Refused(404, f"webhook: Unknown object: {webhook}")
        return self._asana.webhooks[webhook].faults

    async def settled(self, request: web.Request) -> web.Response:
        given = await _read(request, _Settled)
        try:
            async with asyncio.timeout(given.timeout):
                await self._asana.settled()
        except TimeoutError:
            msg = f"deliveries are still under way after {given.timeout:g} s"
            raise TimeoutError(msg) from None
        return await self.show(request)

    async def undelete(self, request: web.Request) -> web.Response:
        given = await _read(request, _Undelete)
        await self._asana.undelete(given.gid)
        return answer({"data": {}})

    async def emit(self, request: web.Request) -> web.Response:
        given = await _read(request, _Emit)
        await self._asana.emit(given.resource, *given.events)
        return answer({"data": {}})
