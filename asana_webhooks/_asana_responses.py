"""Asana's answers read: each becomes a model or one typed error, as does no answer.

Pure: statuses, headers and bytes go in, models come out or an error is raised. An error takes
from a body only what Asana documents; the body itself, which may be a proxy's page, is dropped.

Sources: https://developers.asana.com/docs/errors, https://developers.asana.com/docs/pagination
and https://developers.asana.com/reference/webhooks
"""

from __future__ import annotations

import functools
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar

import aiohttp
import httpx
import msgspec

from ._logging import one_line
from .errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    DuplicateWebhookError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from .models import Page, Resource, Webhook

__all__ = [
    "MAX_RETRY_AFTER",
    "Records",
    "StaleSyncError",
    "StreamPage",
    "accept",
    "decode_created",
    "decode_data",
    "decode_events",
    "decode_nothing",
    "decode_record",
    "decode_records",
    "decode_webhook",
    "decode_webhooks",
    "decode_workspaces",
    "is_untrusted",
    "parse_date",
    "parse_retry_after",
    "unanswered",
]

MAX_RETRY_AFTER = 3600.0
"""The longest wait that ``Retry-After`` is believed, in seconds."""

_MAX_ERRORS = 10
_MAX_TEXT = 1000

T = TypeVar("T")


class StaleSyncError(ApiError):
    """412: without a sync token, or with one that is too old; ``sync`` is the one to go on with.

    Source: https://developers.asana.com/reference/getevents
    """

    sync: str = ""


def accept(status: int, retry_after: str | None, body: bytes | None) -> bytes:
    """Return the body of a successful answer; None stands for one that could not be read.

    Raises the ApiError of its class for each status but 2xx, and DecodeError for a success that
    is too large or badly compressed.
    """
    if not 200 <= status <= 299:
        raise _error(status, retry_after, body or b"")
    if body is None:
        msg = f"Asana's answer {status} is too large or badly compressed; check base_url"
        raise DecodeError(msg)
    return body


def parse_retry_after(value: str | None) -> float | None:
    """Return for how many seconds to wait, 0 to MAX_RETRY_AFTER; None when that is not said.

    Seconds and HTTP dates are read. Source: https://developers.asana.com/docs/rate-limits
    """
    text = (value or "").strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else _seconds_until(text)
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER)


_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def _seconds_until(date: str) -> float | None:
    at = parse_date(date)
    return None if at is None else (at - datetime.now(UTC)).total_seconds()


@functools.lru_cache(maxsize=16)
def parse_date(value: str | None) -> datetime | None:
    """Return the time of an HTTP date, aware; None when it is none."""
    try:
        at = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _error(status: int, retry_after: str | None, body: bytes) -> ApiError:
    said = _said(body)
    messages = _texts(said, "message")
    error = _error_class(status, messages)(
        status,
        messages,
        help=next(iter(_texts(said, "help")), None),
        phrase=next(iter(_texts(said, "phrase")), None),
    )
    if isinstance(error, RateLimitedError):
        error.retry_after = parse_retry_after(retry_after)
    elif isinstance(error, StaleSyncError):
        error.sync = _sync_of(body)
    elif 300 <= status <= 399:
        error.hint = "redirects are not followed, they could carry the token away; check base_url"
    elif status in (400, 404) and not messages:  # Asana explains its own
        error.hint = "check that base_url ends in /api/1.0, and the proxies on the way"
    return error


_CLASSES = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    412: StaleSyncError,
    429: RateLimitedError,
}


def _error_class(status: int, messages: tuple[str, ...]) -> type[ApiError]:
    # The wording is all that tells a duplicate from a lack of permission.
    duplicate = any("already have an existing webhook" in text.lower() for text in messages)
    if status == 403 and duplicate:
        return DuplicateWebhookError
    return ServerError if 500 <= status <= 599 else _CLASSES.get(status, ApiError)


def _sync_of(body: bytes) -> str:
    """Return the token that stands beside the errors of a 412, '' when there is none."""
    try:
        return _sync.decode(body).sync
    except _UNREADABLE:
        return ""


def _said(body: bytes) -> list[dict[str, Any]]:
    try:
        answer = msgspec.json.decode(body)
    except _UNREADABLE:
        return []
    errors = answer.get("errors") if isinstance(answer, dict) else None
    entries = errors[:_MAX_ERRORS] if isinstance(errors, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _texts(entries: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    values = (entry.get(key) for entry in entries)
    return tuple(
        one_line(value, longest=_MAX_TEXT) for value in values if isinstance(value, str) and value
    )


class _Single(msgspec.Struct, Generic[T]):
    data: T


class _Created(msgspec.Struct):
    data: Webhook
    secret: str | None = msgspec.field(default=None, name="X-Hook-Secret")


class _Sync(msgspec.Struct):
    sync: str


class _Events(msgspec.Struct):
    data: tuple[msgspec.Raw, ...]
    sync: str
    has_more: bool = False


class StreamPage(NamedTuple):
    """A page of a resource's events stream, and the token to go on with."""

    events: tuple[msgspec.Raw, ...]
    sync: str
    has_more: bool


class _NextPage(msgspec.Struct):
    offset: str | None = None


class _List(msgspec.Struct):
    data: tuple[msgspec.Raw, ...]
    next_page: _NextPage | None = None


class Records(NamedTuple, Generic[T]):
    """A page of what could be decoded, and what is wrong with each record that could not."""

    page: Page[T]
    odd: tuple[str, ...]


_single = msgspec.json.Decoder(_Single[Webhook])
_created = msgspec.json.Decoder(_Created)
_list = msgspec.json.Decoder(_List)
_webhook = msgspec.json.Decoder(Webhook)
_workspace = msgspec.json.Decoder(Resource)
_resource = msgspec.json.Decoder(_Single[Resource])
_dict = msgspec.json.Decoder(dict[str, Any])
_any = msgspec.json.Decoder(_Single[Any])
_sync = msgspec.json.Decoder(_Sync)
_events = msgspec.json.Decoder(_Events)
_object = msgspec.json.Decoder(_Single[dict[str, Any]])


def decode_webhook(body: bytes) -> Webhook:
    """Return the webhook below ``data``; raises DecodeError when there is none."""
    return _decode(_single, body).data


def decode_created(body: bytes) -> Webhook:
    """Return the webhook of a create call, with the secret that stands beside ``data``.

    Its ``secret`` is None when the answer lacks one. Raises DecodeError like decode_webhook.
    Source: https://developers.asana.com/reference/createwebhook
    """
    created = _decode(_created, body)
    return msgspec.structs.replace(created.data, secret=created.secret or None)


def decode_webhooks(body: bytes) -> Records[Webhook]:
    """Return a page of webhooks; raises DecodeError when ``data`` is no list.

    A record that is no webhook costs itself, not the page.
    """
    return _records(_webhook, body)


def decode_records(body: bytes) -> Records[dict[str, Any]]:
    """Return a page of any objects like ``decode_webhooks``."""
    return _records(_dict, body)


def decode_data(body: bytes) -> Any:
    """Return what stands below ``data``; raises DecodeError when nothing does."""
    return _decode(_any, body).data


def decode_workspaces(body: bytes) -> Records[Resource]:
    """Return a page of workspaces like ``decode_webhooks``."""
    return _records(_workspace, body)


def decode_record(body: bytes) -> dict[str, Any]:
    """Return the object below ``data``, with its gid; raises DecodeError when there is none."""
    _decode(_resource, body)
    return _decode(_object, body).data


def decode_events(body: bytes) -> StreamPage:
    """Return a page of an events stream, its events undecoded; raises DecodeError for no page.

    Source: https://developers.asana.com/reference/getevents
    """
    page = _decode(_events, body)
    return StreamPage(page.data, page.sync, page.has_more)


def decode_nothing(body: bytes) -> None:
    """Return None for ``data`` with any object; raises DecodeError when there is none."""
    _decode(_object, body)


def _records(decoder: msgspec.json.Decoder[T], body: bytes) -> Records[T]:
    answer = _decode(_list, body)
    data: list[T] = []
    odd: list[str] = []
    for record in answer.data:
        try:
            data.append(decoder.decode(record))
        except _UNREADABLE as error:
            odd.append(_reason(error))
    offset = answer.next_page.offset if answer.next_page else None
    return Records(Page(data=tuple(data), offset=offset or None), tuple(odd))


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except _UNREADABLE as error:
        msg = f"Asana's answer is not of the documented shape: {_reason(error)}; check base_url"
        raise DecodeError(msg) from None


def _reason(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)


# The first line that fits any link of the chain of causes. The classes of httpx come last: the
# transport over aiohttp calls a server that hangs up, and most else, a ConnectTimeout.
_KINDS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (ssl.SSLCertVerificationError,),
        "its TLS certificate is not trusted",
        "check the clock, SSL_CERT_FILE, and whether something on the way intercepts TLS",
    ),
    ((ssl.SSLError, aiohttp.ClientSSLError), "TLS failed", "check scheme and port of base_url"),
    (
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError, httpx.ProxyError),
        "the proxy on the way refused",
        "check HTTPS_PROXY and NO_PROXY",
    ),
    (
        (socket.gaierror, aiohttp.ClientConnectorDNSError),
        "its name was not resolved",
        "check base_url and the network",
    ),
    (
        (aiohttp.ClientConnectorError, httpx.ConnectError, ConnectionRefusedError),
        "the connection was refused or has no way there",
        "check base_url, the network and the firewall",
    ),
    (
        (aiohttp.ClientResponseError,),
        "what came back is not HTTP",
        "check base_url and the proxies on the way",
    ),
    (
        (
            aiohttp.ServerDisconnectedError,
            aiohttp.ClientPayloadError,
            aiohttp.ClientOSError,
            ConnectionError,
            httpx.NetworkError,
            httpx.ProtocolError,
        ),
        "it hung up before its answer was complete",
        "try again",
    ),
    (
        (TimeoutError, httpx.TimeoutException),
        "no complete answer came in time",
        "try again, check the network if it lasts",
    ),
)


# Nothing is sent before there is a connection. httpx's ConnectTimeout tells it only without
# aiohttp, whose transport calls more by that name.
_UNCONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    httpx.ConnectError,
)


def unanswered(cause: Exception, *, method: str, host: str) -> ConnectionFailedError:
    """Return the error for a call that got no answer; it names host, kind and next step.

    The cause loses its tracebacks: a hundred lines of what lies below, which name nothing more.
    """
    for link in _chain(cause):
        link.__traceback__ = link.__context__ = None
    what, step = next(
        (what, step) for kinds, what, step in (*_KINDS, _other(cause)) if _has(cause, kinds)
    )
    sent = not _has(cause, _UNCONNECTED) and (
        _has(cause, (aiohttp.ClientError,)) or not _has(cause, (httpx.ConnectTimeout,))
    )
    if method == "POST" and sent:
        step += "; whether the webhook was made is unknown, get_webhooks tells"
    error = ConnectionFailedError(f"no answer from {host}: {what} ({step})")
    error.sent = sent
    return error


def is_untrusted(error: Exception) -> bool:
    """Return whether a certificate was refused, which no repetition cures."""
    return _has(error, (ssl.SSLCertVerificationError,))


def _other(cause: Exception) -> tuple[tuple[type[BaseException], ...], str, str]:
    return (BaseException,), type(cause).__name__, "check base_url and the network"


def _has(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    return any(isinstance(link, kinds) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    passed: set[int] = set()
    while link is not None and id(link) not in passed:  # causes may go in a circle
        passed.add(id(link))
        yield link
        link = link.__cause__
