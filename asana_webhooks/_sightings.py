"""Requests that tell something: handshakes and refusals, kept, logged and told of.

What is kept says why the handshake of a webhook is missing. What Asana would never send to a
confirmed route is told of, because something on the way alters deliveries.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import msgspec

from ._logging import ThrottledLogger, one_line
from .models import Route
from .protocol import (
    BAD_SIGNATURE,
    ENCODED,
    TOO_LARGE,
    UNKNOWN_ROUTE,
    WRONG_SIGNATURE,
    Request,
    Response,
    _Redacted,
)

__all__ = ["BAD_REQUEST", "BODY_LATE", "TOO_MANY_BODIES", "UNAVAILABLE", "Sightings"]

MAX_SIGHTINGS = 1_000
"""Of so many requests it is remembered how they were answered, the latest of those that may tell
why a handshake is missing."""

MANGLED_QUIET_FOR = 3600.0
"""Seconds for which no more is told of the altered deliveries of a route."""

MAX_MANGLED = 10_000
"""Routes of which it is remembered when it was told of them."""

BAD_REQUEST = Response(400, "this is not a complete HTTP/1.1 request", closes=True)
BODY_LATE = Response(408, "the body did not arrive in time", closes=True)
UNAVAILABLE = Response(503, "nothing was stored, send it again", (("Retry-After", "10"),))
TOO_MANY_BODIES = Response(
    503, "too many bodies at once, send it again", (("Retry-After", "10"),), closes=True
)

MANGLED = {
    BAD_SIGNATURE: "its header X-Hook-Signature is missing, doubled or changed: a proxy, a gateway"
    " or a web application firewall strips or rewrites it",
    WRONG_SIGNATURE: "its signature does not fit its body: a gateway or a middleware has parsed the"
    " JSON and written it anew, has changed its encoding or line ends, or reads the body first and"
    " hands on another; or the store was restored from a copy that knows another secret",
    BODY_LATE: "its body did not arrive in time: a proxy holds it back, or hands it on slowly; or"
    " something has blocked the event loop of this process",
    TOO_LARGE: "its body is larger than max_body, which Asana's are not unless that was lowered: a"
    " gateway has packed it anew",
    ENCODED: "it has a Content-Encoding, which Asana does not send: a proxy compresses requests",
    BAD_REQUEST: "its body is shorter than its Content-Length, or was cut: a proxy limits bodies,"
    " or changes them and leaves that header",
}
"""Answers to what Asana would never send to a confirmed route, each with the likely causes."""

logger = logging.getLogger(__name__)


class _Sighting(_Redacted, msgspec.Struct, frozen=True):
    """A request: when (monotonic seconds), for what, what it was, and how it was answered."""

    at: float
    route: str
    kind: str
    response: Response

    def line(self, route: str) -> str:
        """Return it as a line for a person who waits for the handshake of a route."""
        to = "this route" if self.route == route else "an unknown path"
        reason = f": {self.response.reason}" if self.response.reason else ""
        return f"{self.kind} for {to}, answered {self.response.status}{reason}"


def _kind_of(request: Request) -> str:
    if request.secrets:
        return "a handshake"
    method = one_line(request.method, longest=10)
    return f"a {method} without the header X-Hook-Secret"


class Sightings:
    """Keeps the latest requests that tell something; knows of which routes was told.

    ``on_mangled`` is given a confirmed route, and the likely causes, when what comes for it is
    nothing that Asana would send: for each route at once, then an hour later at the earliest.
    """

    def __init__(self, on_mangled: Callable[[Route, str], None] | None) -> None:
        self._on_mangled = on_mangled
        self._sightings: deque[_Sighting] = deque(maxlen=MAX_SIGHTINGS)
        self._told: dict[str, float] = {}  # routes, and when it was told of them (monotonic)
        self._log = ThrottledLogger(logger)

    def note(self, request: Request, response: Response, confirmed: Route | None) -> None:
        """Keep what a handshake or a refusal may tell, and log a refusal.

        ``confirmed`` is the request's route, if that is known to be confirmed.
        """
        if request.secrets or response.status != UNKNOWN_ROUTE.status:
            self._sightings.append(
                _Sighting(time.monotonic(), request.route, _kind_of(request), response)
            )
        if response in MANGLED and confirmed is not None:
            self._tell_of_mangled(confirmed, MANGLED[response])
        if response.reason and response is not UNAVAILABLE:
            level = logging.WARNING if response is TOO_MANY_BODIES else logging.INFO
            self._log.log(
                level, response.reason, "answered %d: %s", response.status, response.reason
            )

    def _tell_of_mangled(self, route: Route, causes: str) -> None:
        now, told_at = time.monotonic(), self._told.get(route.id, -math.inf)
        if self._on_mangled is None or now < told_at + MANGLED_QUIET_FOR:
            return
        if len(self._told) >= MAX_MANGLED:
            self._told.clear()
        self._told[route.id] = now
        self._on_mangled(route, f"a delivery was altered on its way here: {causes}")

    def seen(self, route: str, since: float) -> tuple[str, ...]:
        """Return a line for each request for a route since then (monotonic), deliveries left out.

        Handshakes for no route at all are among them: they may have been meant.
        """
        return tuple(
            sighting.line(route)
            for sighting in self._sightings
            if sighting.at >= since
            and (sighting.route == route or sighting.response.status == UNKNOWN_ROUTE.status)
        )
