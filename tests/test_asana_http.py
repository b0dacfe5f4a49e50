"""The HTTP client of our own connections: what it makes of a request, and what of a URL."""

import asyncio
from collections.abc import Generator

import httpx
import pytest
from aiohttp import web
from conftest import guard
from support import asana_api
from support.asana_api import ONE, TOKEN, asana_at

from asana_webhooks import AuthenticationError, Webhook, WebhooksApi, _asana_http
from asana_webhooks._asana_http import BearerAuth, make_client, parse_url

bare_environment = asana_api.bare_environment

URLS = [
    "https://app.asana.com/api/1.0/tasks/1204619",
    "https://app.asana.com/api/1.0/tasks/1204619?opt_fields=name%2Cnotes&limit=100",
    "https://app.asana.com/api/1.0/tasks?a=1+2&b=%3F%26",
    "https://app.asana.com/api/1.0/tasks?",
    "https://app.asana.com",
    "https://app.asana.com/",
    "https://app.asana.com?workspace=1",
    "https://app.asana.com:443/api",
    "https://APP.asana.com:8443/api",
    "http://127.0.0.1:8080/api/1.0/tasks/external:my-id",
    "http://[::1]:8080/api/1.0/tasks/1",
    "http://bücher.example/api/täsks?q=ä",
    "http://localhost/api/1.0/tasks/%c3%a4/100%",
    "http://localhost/api/1.0/../tasks/./1",
    "http://localhost/api/.hidden/a..b",
    "http://localhost/a b?c d",
    "http://localhost/api?a=1?b=2",
    "/relative",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("knows_parts", [True, False], ids=["fast", "as httpx does"])
def test_url_is_what_httpx_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, url: str, *, knows_parts: bool
) -> None:
    monkeypatch.setattr(_asana_http, "_HAS_PARTS", knows_parts)
    parsed, known = parse_url(url), httpx.URL(url)
    assert parsed == known
    for part in ("scheme", "netloc", "raw_path", "path", "query", "fragment", "host", "port"):
        assert getattr(parsed, part) == getattr(known, part)


def test_url_that_cannot_be_is_refused_as_by_httpx() -> None:
    with pytest.raises(httpx.InvalidURL):
        parse_url("http://localhost:port/")


def test_httpx_has_the_parts_of_urls_that_make_parsing_fast() -> None:
    """When this fails httpx has changed: calls work, but each parses its host anew."""
    assert _asana_http._HAS_PARTS
    assert set(_asana_http._origin("http://a")._uri_reference._fields) >= {"path", "query"}


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT"])
@pytest.mark.parametrize("content", [None, b'{"data":{}}'], ids=["no body", "a body"])
async def test_request_is_what_httpx_makes_of_it(method: str, content: bytes | None) -> None:
    headers = {"Accept": "application/json"}
    async with make_client(None) as client:
        made = client.build_request(method, URLS[1], headers=headers, content=content)
        ours = {"User-Agent": "us", "Accept-Encoding": "gzip"}
        known = httpx.Request(method, URLS[1], headers=ours | headers, content=content)
        made.headers["User-Agent"] = "us"
    assert made.headers == known.headers
    assert (made.method, made.url, made.content) == (known.method, known.url, known.content)


async def test_request_arrives_with_its_headers_and_its_body() -> None:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.method, dict(request.headers), await request.read()))
        return web.json_response(ONE)

    async with asana_at(answer) as api:
        await api.get_webhook("1")
        await api.request("POST", "/tasks", data={"name": "ä"})
        await api.request("PUT", "/tasks/1")
    for _, headers, _ in seen:
        assert headers["Authorization"] == f"Bearer {TOKEN}"
        assert headers["User-Agent"].startswith("asana-webhooks/")
        assert headers["Accept-Encoding"] == "gzip"
        assert headers["Host"].startswith("127.0.0.1:")
    assert [(method, headers.get("Content-Length"), body) for method, headers, body in seen] == [
        ("GET", None, b""),
        ("POST", "22", '{"data":{"name":"ä"}}'.encode()),
        ("PUT", "0", b""),
    ]


class Rounds(httpx.Auth):
    """Takes the token that a refusal names, and reads every response."""

    requires_response_body = True

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield request
        assert response.content
        if token := response.headers.get("X-Token"):
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


@pytest.mark.parametrize("token", ["known", "", None])
async def test_authentication_of_httpx_has_its_rounds_and_reads_responses(
    token: str | None,
) -> None:
    called = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal called
        called += 1
        if token is None or request.headers.get("Authorization") == "Bearer known":
            return web.json_response(ONE)
        return web.json_response({"errors": []}, status=401, headers={"X-Token": token})

    async with asana_at(answer) as api:
        base_url = api._transport.base_url
        async with WebhooksApi(Rounds(), base_url=base_url) as other:
            found = await asyncio.gather(
                *(other.get_webhook("1") for _ in range(5)), return_exceptions=True
            )
    expected = AuthenticationError if token == "" else Webhook
    assert [type(each) for each in found] == [expected] * 5
    assert called == (10 if token else 5)


async def test_authentication_that_raises_leaves_no_connection_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asana_http, "MAX_CONNECTIONS", 1)

    class Failing(httpx.Auth):
        def auth_flow(
            self, request: httpx.Request
        ) -> Generator[httpx.Request, httpx.Response, None]:
            yield request
            raise LookupError

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(ONE)

    async with asana_at(answer) as api:
        failing = api._over(api._transport.for_token(Failing()))
        for _ in range(3):
            with pytest.raises(LookupError):
                await failing.get_webhook("1")
        with guard():
            await api.get_webhook("1")


def test_digest_tells_tokens_apart_and_gives_none_away() -> None:
    first, same, other = BearerAuth(TOKEN), BearerAuth(TOKEN), BearerAuth("another")
    assert first.digest == same.digest != other.digest
    assert TOKEN not in repr(first)
