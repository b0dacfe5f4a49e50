"""The same answers at every door: aiohttp alone and mounted, ASGI by hand and on a server."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from conftest import until
from support.doors import (
    DOORS,
    GOOD,
    HEARTBEAT,
    MAX_BODY,
    PATH,
    RESERVED,
    RETIRED,
    ROUTE,
    SECRET,
    UNKNOWN,
    WHOLE,
    Ask,
    Case,
    Exchange,
    coding,
    delivery,
    make_endpoint,
    make_store,
    opening,
    scope_of,
    secret,
    signature,
    signed,
)

from asana_webhooks._endpoint import Endpoint
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks._receiver_asgi import AsgiApp
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Route

ACCEPTED = {
    "delivery": signed(200, body=delivery()),
    "heartbeat": signed(200),
    "unreadable": signed(200, body=b'{"events":'),
    "empty": signed(200, body=b""),
    "chunked": signed(200, chunked=True),
    "body of the limit": signed(200, body=b" " * MAX_BODY),
    "chunked body of the limit": signed(200, body=b" " * MAX_BODY, chunked=True),
    "upper-case hex": Case(200, headers=[signature(GOOD.upper())]),
    "identity": signed(200, coding(b"identity")),
    "identity in another case": signed(200, coding(b"Identity")),
    "trailing slash": signed(200, path=PATH + "/"),
    "query": signed(200, path=PATH + "?a=/b"),
    "trailing slash and query": signed(200, path=PATH + "/?a"),
    "deeper": signed(200, path=f"/hooks/a%2fb/{ROUTE}"),
    "own secret": Case(200, headers=[secret(SECRET.encode())]),
    "first secret": Case(200, path=f"/hooks/{RESERVED}", headers=[secret(b"s" * 32)]),
    "alive": Case(200, "GET", "/hooks/healthz", body=b""),
    "ready": Case(200, "GET", "/hooks/readyz", body=b""),
}

BAD_SECRETS = {
    "empty": [b""],
    "15 characters": [b"s" * 15],
    "257 characters": [b"s" * 257],
    "blank inside": [b"s" * 16 + b" s"],
    "tab inside": [b"s" * 16 + b"\ts"],
    "non-ASCII": ["é".encode() * 16],
    "undecodable": [b"\xff" * 16],
    "two": [b"s" * 32] * 2,
}

BAD_SIGNATURES = {
    "empty": [b""],
    "63 characters": [GOOD[1:]],
    "65 characters": [GOOD + b"0"],
    "not hex": [b"g" * 64],
    "prefixed": [b"sha256=" + GOOD],
    "non-ASCII in 64 bytes": ["é".encode() * 32],
    "64 non-ASCII characters": ["é".encode() * 64],
    "undecodable": [b"\xff" * 64],
    "two": [GOOD] * 2,
    "joined": [GOOD + b"," + GOOD],
    "wrong": [b"0" * 64],
}

# For br and zstd an aiohttp around us answers 400 by itself, unless it can inflate them.
CODINGS = [b"gzip", b"deflate", b"x-unknown", b"identity, gzip", b"", b"g\xffzip"]

REFUSED = {
    **{
        f"{name} secret, {state}": Case(
            400, path=f"/hooks/{route}", headers=[secret(value) for value in values]
        )
        for name, values in BAD_SECRETS.items()
        for state, route in (("reserved", RESERVED), ("confirmed", ROUTE))
    },
    "no signature": Case(401),
    **{
        f"{name} signature": Case(401, headers=[signature(value) for value in values])
        for name, values in BAD_SIGNATURES.items()
    },
    "secret and wrong signature": Case(401, headers=[secret(b"s" * 32), signature(b"0" * 64)]),
    "foreign secret": Case(403, headers=[secret(b"f" * 32)]),
    "unknown": signed(404, path=f"/hooks/{UNKNOWN}"),
    "retired": signed(404, path=f"/hooks/{RETIRED}"),
    "root": signed(404, path="/hooks/"),
    "two slashes behind": signed(404, path=PATH + "//"),
    "encoded slash": signed(404, path=f"/hooks/a%2f{ROUTE}"),
    "encoded slash behind": signed(404, path=PATH + "%2F"),
    "encoded question mark": signed(404, path=PATH + "%3fa"),
    "encoded NUL": signed(404, path=PATH + "%00"),
    "encoded letter": signed(404, path="/hooks/%63" + PATH[8:]),
    "route in the query": signed(404, path=f"/hooks/x?{PATH}"),
    **{
        method: signed(405, method=method)
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    },
    "POST to a probe": signed(405, path="/hooks/healthz"),
    "body too large": signed(413, body=b" " * (MAX_BODY + 1)),
    "chunked too large": signed(413, body=b" " * (MAX_BODY + 1), chunked=True),
    **{f"coding {value!r}": signed(415, coding(value)) for value in CODINGS},
    "two codings": signed(415, coding(b"identity"), coding(b"gzip")),
    "signed gzip": signed(415, coding(b"gzip"), body=gzip.compress(delivery())),
    "signed deflate": signed(415, coding(b"deflate"), body=zlib.compress(delivery())),
}

CASES = ACCEPTED | REFUSED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[Ask]:
    async with opening(DOORS[0], make_endpoint(await make_store())) as ask:
        yield ask


class Door(NamedTuple):
    name: str
    ask: Ask


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=DOORS[1:])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    async with opening(request.param, make_endpoint(await make_store())) as ask:
        yield Door(request.param, ask)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_answer_is_the_same_at_every_door(receiver: Ask, door: Door, case: Case) -> None:
    answer, expected = await door.ask(case), await receiver(case)
    assert answer.status == case.status
    if door.name in WHOLE:
        expected.headers.pop("connection", None)
    assert answer == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
async def test_refusal_echoes_and_quotes_nothing(receiver: Ask, case: Case) -> None:
    answer = await receiver(case)
    assert "x-hook-secret" not in answer.headers
    assert answer.body.isascii()
    for quoted in (b"sss", GOOD, ROUTE.encode()):
        assert quoted not in answer.body


ALTERED = {
    "unsigned": Case(401),
    "rewritten": Case(401, headers=[signature(GOOD)], body=b'{"events": []}'),
    "too large": REFUSED["body too large"],
    "compressed": REFUSED["signed gzip"],
}


@pytest.mark.parametrize("door_name", DOORS)
@pytest.mark.parametrize("case", ALTERED.values(), ids=ALTERED.keys())
async def test_delivery_that_was_altered_is_told_at_every_door(door_name: str, case: Case) -> None:
    told: list[Route] = []
    endpoint = make_endpoint(
        await make_store(), on_mangled=lambda route, detail: told.append(route)
    )
    async with opening(door_name, endpoint) as ask:
        assert (await ask(case)).status == case.status
    assert [route.id for route in told] == [ROUTE]


async def cut_on_a_socket(endpoint: Endpoint) -> None:
    async with Receiver(endpoint, host="127.0.0.1", port=0) as receiver:
        _, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        writer.write(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n" % PATH.encode())
        writer.write(b"X-Hook-Signature: %b\r\n\r\n%b" % (GOOD, HEARTBEAT))
        await writer.drain()
        await until(lambda: endpoint._bodies == len(HEARTBEAT))
        writer.close()
        await until(lambda: endpoint._bodies == 0)


async def cut_in_asgi(endpoint: Endpoint) -> None:
    exchange = Exchange(scope_of(Case(400, headers=[signature(GOOD)])))
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": HEARTBEAT, "more_body": True},
        {"type": "http.disconnect"},
    ]
    exchange._messages = iter(messages)
    await exchange.with_(AsgiApp(endpoint))


@pytest.mark.parametrize("cut", [cut_on_a_socket, cut_in_asgi])
async def test_body_that_is_shorter_than_announced_is_told(
    cut: Callable[[Endpoint], Awaitable[None]],
) -> None:
    told: list[str] = []
    endpoint = make_endpoint(await make_store(), on_mangled=lambda route, why: told.append(why))
    await cut(endpoint)
    assert ["shorter than its Content-Length" in why for why in told] == [True]


# h11, on which uvicorn runs here, refuses it by itself.
@pytest.mark.parametrize("door_name", [name for name in DOORS if "uvicorn" not in name])
async def test_body_in_two_transfer_codings_is_refused_and_its_connection_closed(
    door_name: str,
) -> None:
    coded = signed(501, (b"Transfer-Encoding", b"gzip, chunked"), chunked=True)
    async with opening(door_name, make_endpoint(await make_store())) as ask:
        answer = await ask(coded)
    closing = None if door_name in WHOLE else "close"
    assert (answer.status, answer.headers.get("connection")) == (501, closing)


async def fail(*args: object, **kwargs: object) -> None:
    msg = "the disk is full"
    raise StoreError(msg)


async def hang(*args: object, **kwargs: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("door_name", DOORS)
@pytest.mark.parametrize("failure", [fail, hang])
@pytest.mark.parametrize(
    ("method", "case"),
    [
        pytest.param("get_route", signed(200), id="looking up"),
        pytest.param("put", signed(200, body=delivery()), id="enqueueing"),
        pytest.param("put", signed(200, body=b"{"), id="burying"),
        pytest.param("note_heartbeat", signed(200), id="noting a heartbeat"),
        pytest.param("add_candidate", ACCEPTED["first secret"], id="remembering a secret"),
    ],
)
async def test_failing_store_is_answered_with_when_to_try_again(
    monkeypatch: pytest.MonkeyPatch,
    door_name: str,
    failure: Callable[..., Awaitable[None]],
    method: str,
    case: Case,
) -> None:
    store = await make_store()
    async with opening(door_name, make_endpoint(store, store_timeout=0.05)) as ask:
        with monkeypatch.context() as broken:
            broken.setattr(store, method, failure)
            answer = await ask(case)
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert (await ask(case)).status == 200
