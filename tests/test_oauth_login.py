"""Logins in a browser at the local Asana, by ASGI and by aiohttp."""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiohttp import web
from conftest import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from support.oauth_logins import CLIENT_ID, CLIENT_SECRET
from support.plain_http import NO_TLS
from support.ports import free_tcp_port
from test_oauth_app import Kept

from asana_webhooks import (
    MemoryStore,
    Notice,
    SqliteStore,
    StoreError,
    WebhooksClient,
    _desired,
)
from asana_webhooks.auth import LoginApp, OAuthApp, Token, _login
from asana_webhooks.simulator import AsanaSimulator


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    clients = {CLIENT_ID: CLIENT_SECRET}
    async with AsanaSimulator(retry_delay=0.01, rotates=True, oauth_clients=clients) as simulator:
        yield simulator


@pytest.fixture
def kept() -> Kept:
    return Kept()


class Service:
    """A service of some user, which mounts the login; ``url`` is where browsers find that."""

    def __init__(self, asana: AsanaSimulator, kept: Kept, kind: str) -> None:
        self.port = free_tcp_port()
        self.url = f"http://127.0.0.1:{self.port}/connect"
        self.kind = kind
        self.store: Any = MemoryStore()
        self.asana = asana
        self.kept = kept
        self.connected: list[tuple[str, Token]] = []
        self.then: str | None = None
        self.failure: Exception | None = None
        self._stack = AsyncExitStack()
        self._mounted: Any = None

    def make_client(self, store: Any = None) -> WebhooksClient:
        app = OAuthApp(
            CLIENT_ID,
            CLIENT_SECRET,
            load=self.kept.load,
            save=self.kept.save,
            base_url=self.asana.base_url,
        )
        return WebhooksClient(
            tokens=app,
            public_url=f"http://127.0.0.1:{self.port}/hooks",
            store=store or self.store,
            serve=False,
            base_url=self.asana.base_url,
            reconcile=None,
        )

    async def note(self, account: str, token: Token) -> str | None:
        if self.failure is not None:
            raise self.failure
        self.connected.append((account, token))
        return self.then

    async def account_of(self, request: Any) -> str | None:
        """Return the user that the header X-User names, as a session would."""
        headers = request.headers if self.kind == "aiohttp" else Request(request).headers
        name: str | None = headers.get("X-User")
        return name

    async def open(self, **options: Any) -> WebhooksClient:
        client = self.make_client()
        await self._stack.enter_async_context(client.running())
        self.login = client.login_app(self.url, connected=self.note, **options)
        await self.mount(self.login)
        return client

    async def mount(self, login: LoginApp) -> None:
        if self.kind == "ASGI":
            self._mounted = httpx.ASGITransport(Starlette(routes=[Mount("/connect", login)]))
            return
        app = web.Application()
        app.add_subapp("/connect", login.aiohttp_app())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self.port).start()

    async def browser(self, **headers: str) -> httpx.AsyncClient:
        """Return a browser, which has cookies of its own."""
        mounts = {f"all://127.0.0.1:{self.port}": self._mounted} if self._mounted else {}
        client = httpx.AsyncClient(verify=NO_TLS, mounts=mounts, headers=headers)
        return await self._stack.enter_async_context(client)

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.fixture(params=["ASGI", "aiohttp"])
async def service(
    asana: AsanaSimulator, kept: Kept, request: pytest.FixtureRequest
) -> AsyncIterator[Service]:
    service = Service(asana, kept, request.param)
    yield service
    await service.aclose()


async def begin(service: Service, browser: httpx.AsyncClient) -> str:
    """Begin a login, let the user consent, and return where Asana leads the browser."""
    to_asana = await browser.get(f"{service.url}/")
    assert to_asana.status_code == 303
    back = await browser.get(to_asana.headers["Location"])
    assert back.headers["Location"].startswith(f"{service.url}/callback?")
    return str(back.headers["Location"])


async def log_in(service: Service, **headers: str) -> httpx.Response:
    browser = await service.browser(**headers)
    return await browser.get(await begin(service, browser))


# Logins that work


async def test_user_who_logs_in_is_an_account(service: Service, kept: Kept) -> None:
    client = await service.open()
    answer = await log_in(service)
    assert answer.status_code == 200
    assert "Asana is connected." in answer.text
    ((account, token),) = service.connected
    assert token.user is not None
    assert account == token.user.gid
    assert kept.saves == [(account, token)]
    assert (await client.account(account).me())["gid"] == account


async def test_account_is_that_of_the_session(service: Service, kept: Kept) -> None:
    await service.open(account_of=service.account_of)
    assert (await log_in(service, **{"X-User": "acme"})).status_code == 200
    assert [account for account, _ in service.connected] == ["acme"]
    assert list(kept.tokens) == ["acme"]


async def test_browser_is_led_on_and_forgets_the_login(service: Service) -> None:
    await service.open()
    service.then = "https://service.example.com/welcome"
    browser = await service.browser()
    answer = await browser.get(await begin(service, browser))
    assert (answer.status_code, answer.headers["Location"]) == (303, service.then)
    assert not browser.cookies


async def test_webhooks_that_waited_for_the_login_are_established(
    service: Service, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desired, "FIRST_PAUSE", 600.0)
    client = await service.open(account_of=service.account_of)
    told: list[Notice] = []

    @client.on_notice("unauthorized")
    async def tell(notice: Notice) -> None:
        told.append(notice)

    client.account("acme").keep(asana.project)
    await until(lambda: told)
    await log_in(service, **{"X-User": "acme"})
    # It fails, for nobody listens to the handshake.
    await until(lambda: any(call.path.endswith("/webhooks") for call in asana.calls("POST")))


async def test_account_may_log_in_as_another_user(service: Service, asana: AsanaSimulator) -> None:
    client = await service.open(account_of=service.account_of)
    for user in (await asana.add_user("Ann"), await asana.add_user("Ben")):
        asana.oauth.user = user
        await log_in(service, **{"X-User": "acme"})
        assert (await client.account("acme").me())["gid"] == user


async def test_login_ends_at_another_process(
    service: Service, asana: AsanaSimulator, kept: Kept, tmp_path: Path
) -> None:
    service.store = SqliteStore(tmp_path / "hooks.db")
    await service.open()
    other = Service(asana, kept, "ASGI")
    other.url, other.port = service.url, service.port
    async with service.make_client(SqliteStore(tmp_path / "hooks.db")) as client:
        await other.mount(client.login_app(service.url, connected=other.note))
        browser = await service.browser()
        back = await begin(service, browser)
        elsewhere = await other.browser()
        elsewhere.cookies = browser.cookies
        assert (await elsewhere.get(back)).status_code == 200
        assert (await browser.get(back)).status_code == 409
    assert len(other.connected) == 1
    assert service.connected == []
    await other.aclose()


# Logins that are refused


async def test_login_is_over_once_it_has_ended(service: Service) -> None:
    await service.open()
    browser = await service.browser()
    back = await begin(service, browser)
    cookies = httpx.Cookies(browser.cookies)
    assert (await browser.get(back)).status_code == 200
    browser.cookies = cookies
    again = await browser.get(back)
    assert again.status_code == 409
    assert service.url in again.text
    assert len(service.connected) == 1


async def test_login_of_another_browser_is_refused(service: Service, kept: Kept) -> None:
    await service.open()
    mine, theirs = await service.browser(), await service.browser()
    await begin(service, mine)
    back = await begin(service, theirs)
    assert (await mine.get(back)).status_code == 400
    assert (await (await service.browser()).get(back)).status_code == 400
    assert kept.saves == []


async def test_login_that_took_too_long_is_refused(
    service: Service, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.open()
    browser = await service.browser()
    back = await begin(service, browser)
    later = time.time() + _login.LOGIN_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    browser.headers["Cookie"] = "; ".join(
        f"{name}={text}" for name, text in browser.cookies.items()
    )
    assert (await browser.get(back)).status_code == 400
    assert kept.saves == []


async def test_callback_that_nobody_asked_for_is_refused(service: Service) -> None:
    await service.open()
    browser = await service.browser()
    cookies = ["", "e30", "é", "asana-login", "=", "e30=; a", "~" * 5000]
    queries = ["", "state=", "code=c&state=%ff%00", "state=a&state=b", "error=access_denied"]
    for cookie in cookies:
        headers = [(b"Cookie", b"asana-login=" + cookie.encode())]
        for query in queries:
            answer = await browser.get(f"{service.url}/callback?{query}", headers=headers)
            assert answer.status_code == 400, (cookie, query)
    assert service.connected == []


async def test_user_who_refuses_is_told_so(
    service: Service, asana: AsanaSimulator, kept: Kept
) -> None:
    await service.open()
    asana.oauth.consents = False
    answer = await log_in(service)
    assert answer.status_code == 403
    assert "access_denied" in answer.text
    assert kept.saves == []


async def test_visitor_without_a_session_is_told_to_log_in_first(service: Service) -> None:
    await service.open(account_of=service.account_of)
    answer = await (await service.browser()).get(f"{service.url}/")
    assert answer.status_code == 403
    assert "Log in to this service" in answer.text
    assert "Set-Cookie" not in answer.headers


async def test_code_that_asana_does_not_take_is_told(service: Service, kept: Kept) -> None:
    await service.open()
    browser = await service.browser()
    back = re.sub(r"code=[^&]+", "code=spent", await begin(service, browser))
    answer = await browser.get(back)
    assert answer.status_code == 502
    assert kept.saves == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
async def test_other_methods_are_refused(service: Service, method: str) -> None:
    await service.open()
    answer = await (await service.browser()).request(method, f"{service.url}/")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


async def test_other_paths_are_not_found(service: Service) -> None:
    await service.open()
    assert (await (await service.browser()).get(f"{service.url}/other")).status_code == 404


# Failures of the program


@pytest.mark.parametrize("then", ["/a b", "/a\r\nSet-Cookie: b=c", "", 7])
async def test_nothing_but_a_url_is_led_to(service: Service, then: Any) -> None:
    await service.open()
    service.then = then
    answer = await log_in(service)
    assert answer.status_code == 500
    assert "Location" not in answer.headers


async def test_failure_of_the_program_is_a_page_and_a_line_of_the_log(
    service: Service, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    await service.open()
    service.failure = OSError("a text that may quote a token")
    assert (await log_in(service)).status_code == 500
    assert "OSError" in caplog.text
    assert "quote a token" not in caplog.text


async def test_token_that_cannot_be_saved_connects_nobody(
    service: Service, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    await service.open()
    kept.failures.append(OSError("the disk is full"))
    assert (await log_in(service)).status_code == 500
    assert service.connected == []
    assert "failed: OSError" in caplog.text


async def test_name_that_is_none_is_a_failure(service: Service) -> None:
    await service.open(account_of=service.account_of)
    answer = await (await service.browser(**{"X-User": "a/b"})).get(f"{service.url}/")
    assert answer.status_code == 500


async def test_store_that_fails_is_a_page(
    service: Service, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_options: object) -> int:
        raise StoreError("down")

    await service.open()
    browser = await service.browser()
    back = await begin(service, browser)
    monkeypatch.setattr(service.store, "hold", fail)
    assert (await browser.get(back)).status_code == 503
    assert kept.saves == []


# Secrets


async def test_nothing_secret_is_in_a_url_a_page_a_cookie_or_the_log(
    service: Service, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asana_webhooks")
    await service.open()
    browser = await service.browser()
    to_asana = await browser.get(f"{service.url}/")
    (cookie,) = browser.cookies.values()
    back = (await browser.get(to_asana.headers["Location"])).headers["Location"]
    page = await browser.get(back)
    ((account, token),) = service.connected
    verifier = service.login._logins._app.derive("verifier", cookie)
    assert len(verifier) == 43
    secrets = [CLIENT_SECRET, verifier, token.access_token, str(token.refresh_token)]
    shown = [to_asana.headers["Location"], back, cookie, page.text, str(page.headers), caplog.text]
    assert account in caplog.text
    assert [one for one in secrets if any(one in text for text in shown)] == []
    code = parse_qs(urlsplit(back).query)["code"][0]
    assert code not in caplog.text
    assert code not in page.text
    for answer in (to_asana, page):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "code_challenge_method=S256" in to_asana.headers["Location"]


@pytest.mark.parametrize(
    ("url", "name", "is_secure"),
    [
        ("https://service.example.com/connect/", "__Host-asana-login", True),
        ("http://localhost:8080", "asana-login", False),
    ],
    ids=["https", "local"],
)
async def test_cookie_is_for_this_host_alone(
    asana: AsanaSimulator, kept: Kept, url: str, name: str, *, is_secure: bool
) -> None:
    login = Service(asana, kept, "ASGI").make_client().login_app(url)
    answer = await login._logins.answer("GET", "", "", "", None)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{name}=")
    assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    assert ("Secure" in cookie.split("; ")) is is_secure
    redirect = parse_qs(urlsplit(answer.headers["Location"]).query)["redirect_uri"]
    assert redirect == [f"{url.rstrip('/')}/callback"]


# What cannot work


@pytest.mark.parametrize(
    "url",
    [
        "http://service.example.com/connect",
        "http://10.0.0.1/connect",
        "ftp://127.0.0.1/",
        "/connect",
        "https://",
        "https://service.example.com:port/",
        "https://[::1/",
        "https://me@service.example.com/",
        "https://service.example.com/?a=b",
        "https://service.example.com/#a",
    ],
)
async def test_url_to_which_no_code_may_be_sent_is_refused(
    asana: AsanaSimulator, kept: Kept, url: str
) -> None:
    with pytest.raises(ValueError, match="url must be where browsers find the login"):
        Service(asana, kept, "ASGI").make_client().login_app(url)


async def test_login_needs_an_app_with_a_secret(kept: Kept) -> None:
    url = "https://service.example.com"

    def client(**options: Any) -> WebhooksClient:
        return WebhooksClient(store=MemoryStore(), public_url=url, **options)

    app = OAuthApp(CLIENT_ID, load=kept.load, save=kept.save)
    with pytest.raises(ValueError, match="needs the client_secret"):
        client(tokens=app).login_app(url)
    with pytest.raises(RuntimeError, match="tokens=OAuthApp"):
        client(token="a-token").login_app(url)
    with pytest.raises(ValueError, match="connected must be an async def"):
        client(tokens=app).login_app(url, connected=print)  # type: ignore[arg-type]


async def test_client_that_is_not_open_ends_no_login(asana: AsanaSimulator, kept: Kept) -> None:
    service = Service(asana, kept, "ASGI")
    await service.mount(service.make_client().login_app(service.url))
    browser = await service.browser()
    assert (await browser.get(await begin(service, browser))).status_code == 503
    await service.aclose()


async def test_application_answers_http_alone(asana: AsanaSimulator, kept: Kept) -> None:
    login = Service(asana, kept, "ASGI").make_client().login_app("http://localhost/")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    receive: Callable[..., Any] = send
    await login({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close"}]
    with pytest.raises(ValueError, match="lifespan"):
        await login({"type": "lifespan"}, receive, send)


# The page of docs


async def test_program_of_the_page_logs_in(asana: AsanaSimulator, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "accounts.md").read_text()
    (program,) = (
        each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "login_app" in each
    )
    site = f"http://127.0.0.1:{free_tcp_port()}"
    base_url, store = asana.base_url, f"sqlite:///{tmp_path / 'hooks.db'}"
    for old, new in (
        ("https://example.com", site),
        ('"client-id", "client-secret"', f'"{CLIENT_ID}", "{CLIENT_SECRET}"'),
        ("save=save)", f'save=save, base_url="{base_url}")'),
        ("serve=False)", f'serve=False, base_url="{base_url}", store="{store}")'),
        ('"1204619"', f'"{asana.project}"'),
    ):
        assert old in program
        program = program.replace(old, new)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - as its reader does
    mounts = {f"all://{site.removeprefix('http://')}": httpx.ASGITransport(names["site"])}
    async with (
        names["client"].running(),
        httpx.AsyncClient(verify=NO_TLS, mounts=mounts) as browser,
    ):
        assert (await browser.get(f"{site}/connect/")).status_code == 403
        browser.cookies.set("user", "acme", domain="127.0.0.1")
        to_asana = await browser.get(f"{site}/connect/")
        back = await browser.get(to_asana.headers["Location"])
        answer = await browser.get(back.headers["Location"])
    assert answer.headers["Location"] == f"{site}/welcome"
    assert list(names["rows"]) == ["acme"]
