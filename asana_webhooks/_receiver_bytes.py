"""The receiver for requests that are there whole, as servers without ASGI and aiohttp have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from msgspec.structs import replace

from ._endpoint import Endpoint, Refusal, read_head
from ._sightings import BAD_REQUEST
from .protocol import Request, Response

__all__ = ["Headers", "answer"]

Headers: TypeAlias = (
    Mapping[str, str]
    | Mapping[bytes, bytes]
    | Iterable[tuple[str, str]]
    | Iterable[tuple[bytes, bytes]]
)
"""Names with values; of a mapping ``items`` are read, which may repeat a name."""

PLAIN = ("Content-Type", "text/plain; charset=utf-8")


async def answer(
    endpoint: Endpoint, method: str, path: str, headers: Headers, body: bytes
) -> Response:
    """Return the endpoint's answer, with all headers that it needs but its Content-Length.

    A body that is shorter than announced is refused, as one whose connection broke. Raises
    TypeError for what is no method, path, headers or body; none is quoted.
    """
    head = read_head(_text(method), _text(path), _pairs(headers))
    whole = _bytes(body)
    if _is_whole(head, whole):
        head.body = whole

    async def receive() -> tuple[bytes, bool]:
        if not _is_whole(head, whole):
            raise Refusal(BAD_REQUEST)
        return whole, False

    response = await endpoint.handle(head, receive)
    return replace(response, headers=(PLAIN, *response.headers))


def _is_whole(head: Request, body: bytes) -> bool:
    return head.length is None or head.length <= len(body)


def _pairs(headers: Headers) -> list[tuple[bytes, bytes]]:
    items: Any = getattr(headers, "items", lambda: headers)
    try:
        return [(_raw(name), _raw(value)) for name, value in items()]
    except (TypeError, ValueError):
        msg = "headers is a mapping or pairs of names and values, both str or bytes"
        raise TypeError(msg) from None


def _raw(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")  # what is not ASCII is refused in any coding
    if isinstance(part, bytes):
        return part
    raise TypeError


def _bytes(part: object) -> bytes:
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    msg = f"body is the raw bytes of the request, not {type(part).__name__}"
    raise TypeError(msg)


def _text(part: object) -> str:
    if isinstance(part, str):
        return part
    msg = f"method and path are str, not {type(part).__name__}"
    raise TypeError(msg)
