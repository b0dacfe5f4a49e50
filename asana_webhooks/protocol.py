"""The answer to each request for a route, and the effect that is stored before it is given.

Two rules stand above the table: an answer is never sent before its effect is durable, and no
input, however odd, is answered with an exception. ``decide`` is pure, so that both can be tested
without a socket.

=========================================  =========  ==================  ========================
request                                    route      answer              effect
=========================================  =========  ==================  ========================
any                                        unknown    404                 none, body unread
any                                        retired    404, 410 if asked   none, body unread
not POST                                   any        405 + Allow         none
Transfer-Encoding other than chunked       any        501                 none
Content-Encoding other than identity       any        415                 none
body over the limit                        any        413, unread         none
secret, not one header of 16-256 ``!``-~   any        400, no echo        none
secret                                     reserved   200 + echo          ``Remember`` a candidate
secret, the stored one                     confirmed  200 + echo          none
secret, another                            confirmed  403                 none
secret and signature                       any        judged as signed    likewise
signature missing, malformed, two, wrong   any        401                 none
signed, no events                          any        200                 ``NoteHeartbeat``
signed, events                             confirmed  200                 ``Enqueue``
signed by a candidate                      reserved   200                 ``Enqueue``, held for it
signed, unreadable                         confirmed  200                 ``Bury``
signed, every event older than 26 hours    confirmed  200                 ``Bury``: a replay
=========================================  =========  ==================  ========================

The endpoint answers 503 where a store fails or bodies are too many, 408 and 400 where one does not
come or is cut, and 403 where a fifth candidate comes.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import hmac
import re
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from .errors import DecodeError
from .models import Route, is_older, split_events
from .signature import digest, parse_signature

__all__ = [
    "MAX_BODY",
    "Bury",
    "Decision",
    "Effect",
    "Enqueue",
    "NoteHeartbeat",
    "Remember",
    "Request",
    "Response",
    "decide",
    "judge",
    "route_of",
    "screen",
]

MAX_BODY = 2 * 1024 * 1024
"""The largest body that is read, in bytes, unless another limit is given."""

REPLAYED_AFTER = timedelta(hours=26)
"""Asana gives up after 24 hours: a delivery of older events alone is somebody's replay."""


class _Redacted:
    """Shows what it is and not what it holds: secrets, signatures, bodies."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Request(_Redacted, msgspec.Struct, kw_only=True, gc=False):
    """The part of an HTTP request that matters, as the doors hand it over.

    ``secrets``, ``signatures``, ``encodings`` and ``transfers`` hold the values of each
    ``X-Hook-Secret``, ``X-Hook-Signature``, ``Content-Encoding`` and ``Transfer-Encoding`` header,
    undecodable bytes in any representation. ``length`` is the Content-Length, None when the body is
    chunked. ``body`` is filled in when it is known that it matters. ``headers`` are all of them as
    they came, for telemetry; nothing is decided by them.
    """

    method: str
    route: str
    secrets: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    transfers: tuple[str, ...] = ()
    length: int | None = None
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Response(_Redacted, msgspec.Struct, frozen=True, gc=False):
    """An answer: its status, headers, and one line of plain text that quotes nothing.

    ``closes`` says that the connection ends, unless the whole request was read: nobody knows when
    the rest of it would come.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False

    @property
    def body(self) -> bytes:
        """The reason as a line, empty when there is none."""
        return f"{self.reason}\n".encode() if self.reason else b""

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class Remember(_Redacted, msgspec.Struct, frozen=True, gc=False):
    """Keep this secret as a candidate of the route."""

    secret: str


class NoteHeartbeat(msgspec.Struct, frozen=True, gc=False):
    """Keep that the webhook is alive."""


class Enqueue(_Redacted, msgspec.Struct, frozen=True, gc=False):
    """Put the body into the inbox; held until ``candidate`` is confirmed, if one is named."""

    digest: bytes
    candidate: str | None = None


class Bury(_Redacted, msgspec.Struct, frozen=True, gc=False):
    """Put the body to the dead letters: refusing it would be retried, then cost the webhook."""

    digest: bytes
    reason: str
    replay: bool = False


Effect: TypeAlias = Remember | NoteHeartbeat | Enqueue | Bury


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer, and the effect that must be durable before it is sent."""

    response: Response
    effect: Effect | None = None


ACCEPTED = Response(200)
BAD_SECRET = Response(400, "X-Hook-Secret must be one header of 16 to 256 visible characters")
BAD_SIGNATURE = Response(401, "X-Hook-Signature is not one header of 64 hex digits")
WRONG_SIGNATURE = Response(401, "the signature does not fit the body")
FOREIGN_SECRET = Response(403, "this route has its secret already")
UNKNOWN_ROUTE = Response(404, "no webhook here")
NOT_POST = Response(405, "a webhook target takes POST only", (("Allow", "POST"),))
GONE = Response(410, "this webhook was deleted")
TOO_LARGE = Response(413, "the body is too large", closes=True)
ENCODED = Response(415, "the body must not be encoded: its signature covers the bytes sent")
TRANSFERRED = Response(501, "the only Transfer-Encoding taken is chunked", closes=True)

_PATH = re.compile(r"[^?#]*/([A-Za-z0-9_-]{32})/?(?:\?[^#]*)?\Z")
_SECRET = re.compile(r"[!-~]{16,256}\Z")


def route_of(path: str) -> str:
    """Return the last segment of a path, as it came, if it can be a route's id.

    An empty string otherwise. What stands before it is the business of proxies and mounts.
    """
    match = _PATH.match(path)
    return match[1] if match else ""


def screen(
    request: Request, route: Route, *, max_body: int = MAX_BODY, answer_gone: bool = False
) -> Response | None:
    """Return the refusal that needs no look into the body, None when the body must be read."""
    if route.state == "retired":
        return GONE if answer_gone else UNKNOWN_ROUTE
    if request.method != "POST":
        return NOT_POST
    for transfer in request.transfers:
        if transfer.strip().lower() != "chunked":
            return TRANSFERRED
    for encoding in request.encodings:
        if encoding.strip().lower() != "identity":
            return ENCODED
    if (request.length or 0) > max_body or len(request.body) > max_body:
        return TOO_LARGE
    return None


def decide(
    request: Request,
    route: Route | None,
    *,
    now: datetime,
    max_body: int = MAX_BODY,
    answer_gone: bool = False,
) -> Decision:
    """Return what the table says for this request at this route; raises nothing."""
    if route is None:
        return Decision(UNKNOWN_ROUTE)
    refusal = screen(request, route, max_body=max_body, answer_gone=answer_gone)
    return judge(request, route, now=now) if refusal is None else Decision(refusal)


def judge(request: Request, route: Route, *, now: datetime) -> Decision:
    """Return what the table says of a request that ``screen`` does not refuse, its body read."""
    if request.secrets and not request.signatures:
        return _decide_handshake(request.secrets, route)
    return _decide_delivery(request, route, now)


def _decide_handshake(secrets: tuple[str, ...], route: Route) -> Decision:
    if len(secrets) != 1 or not _SECRET.match(secrets[0]):
        return Decision(BAD_SECRET)
    (secret,) = secrets
    echo = Response(200, headers=(("X-Hook-Secret", secret),))
    if route.secret is None:
        return Decision(echo, Remember(secret))
    if hmac.compare_digest(route.secret.encode("utf-8", "surrogatepass"), secret.encode()):
        return Decision(echo)
    return Decision(FOREIGN_SECRET)


def _decide_delivery(request: Request, route: Route, now: datetime) -> Decision:
    given = parse_signature(request.signatures[0]) if len(request.signatures) == 1 else None
    if given is None:
        return Decision(BAD_SIGNATURE)
    secret = _signer(request.body, given, route)
    if secret is None:
        return Decision(WRONG_SIGNATURE)
    candidate = secret if route.secret is None else None
    return Decision(ACCEPTED, _effect(request.body, given, candidate, now))


def _signer(body: bytes, given: bytes, route: Route) -> str | None:
    secrets = route.candidates if route.secret is None else (route.secret,)
    for secret in secrets:
        if hmac.compare_digest(digest(body, secret), given):
            return secret
    return None


def _effect(body: bytes, given: bytes, candidate: str | None, now: datetime) -> Effect:
    try:
        events = split_events(body)
    except DecodeError as error:
        return Enqueue(given, candidate) if candidate else Bury(given, str(error))
    if not events:
        return NoteHeartbeat()
    if candidate is None and _are_older(events, now - REPLAYED_AFTER):
        return Bury(given, "older than 26 h: late or replayed", replay=True)
    return Enqueue(given, candidate)


def _are_older(events: list[msgspec.Raw], than: datetime) -> bool:
    return is_older(events[0], than) and all(is_older(event, than) for event in events)
