"""Requests that are there whole: headers in any shape, and what is no request."""

from __future__ import annotations

from typing import Any

import pytest
from support.doors import GOOD, HEARTBEAT, PATH, make_endpoint, make_store
from tornado.httputil import HTTPHeaders
from werkzeug.datastructures import Headers as WerkzeugHeaders

from asana_webhooks import MemoryStore, WebhooksClient
from asana_webhooks._receiver_bytes import answer

SIGNATURE = GOOD.decode()


async def status_of(headers: Any, **changed: Any) -> int:
    asked = {"method": "POST", "path": PATH, "body": HEARTBEAT} | changed
    response = await answer(make_endpoint(await make_store()), headers=headers, **asked)
    return response.status


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Hook-Signature": SIGNATURE}, id="a mapping"),
        pytest.param({b"x-hook-signature": GOOD}, id="a mapping of bytes"),
        pytest.param([("X-HOOK-SIGNATURE", SIGNATURE)], id="pairs"),
        pytest.param(iter([(b"x-hook-signature", GOOD)]), id="an iterator over pairs"),
        pytest.param(HTTPHeaders({"X-Hook-Signature": SIGNATURE}).get_all(), id="Tornado's"),
        pytest.param(WerkzeugHeaders({"X-Hook-Signature": SIGNATURE}), id="Werkzeug's"),
    ],
)
async def test_headers_are_read_in_any_shape(headers: Any) -> None:
    assert await status_of(headers) == 200


async def test_repeated_header_is_not_taken_for_one() -> None:
    assert await status_of([("X-Hook-Signature", SIGNATURE)] * 2) == 401


async def test_body_shorter_than_announced_is_refused_and_told() -> None:
    told: list[str] = []
    endpoint = make_endpoint(await make_store(), on_mangled=lambda route, why: told.append(why))
    headers = {"X-Hook-Signature": SIGNATURE, "Content-Length": "20"}
    response = await answer(endpoint, "POST", PATH, headers, HEARTBEAT)
    assert response.status == 400
    assert ["shorter than its Content-Length" in why for why in told] == [True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"body": "text"}, "body is the raw bytes"),
        ({"body": None}, "body is the raw bytes"),
        ({"path": PATH.encode()}, "method and path are str, not bytes"),
        ({"method": None}, "method and path are str, not NoneType"),
        ({"headers": [("X-Hook-Secret", 5)]}, "headers is a mapping or pairs"),
        ({"headers": None}, "headers is a mapping or pairs"),
        ({"headers": {"X-Hook-Secret": ["s" * 32]}}, "headers is a mapping or pairs"),
    ],
)
async def test_what_is_no_request_is_a_type_error(changed: dict[str, Any], message: str) -> None:
    asked = {"headers": {"X-Hook-Signature": SIGNATURE}} | changed
    with pytest.raises(TypeError, match=message):
        await status_of(**asked)


async def test_client_that_is_not_open_answers_nothing() -> None:
    client = WebhooksClient("a-token", public_url="https://hooks.example.com", store=MemoryStore())
    with pytest.raises(RuntimeError, match="not open"):
        await client.handle("POST", PATH, {}, b"")
