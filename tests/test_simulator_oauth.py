"""OAuth at the local Asana: a user consents, tokens are issued, refreshed, end, and are revoked."""

import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World
from support.plain_http import NO_TLS
from yarl import URL

from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.simulator.operations import DESCRIBED
from asana_webhooks.simulator.state import State

BACK = "https://app.example.com/back?from=asana"
VERIFIER = "a-verifier-of-forty-three-characters-or-more-43"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().strip("=")


class Clock:
    """Time passes only when it is told to."""

    now = datetime(2026, 7, 1, tzinfo=UTC)

    def pass_(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(State, "now", lambda _: clock.now)
    return clock


class App:
    """An app that users authorize."""

    def __init__(self, world: World, http: httpx.AsyncClient) -> None:
        self.world = world
        self.asana = world.asana
        self.http = http

    async def ask(self, **params: str | None) -> httpx.Response:
        query = {
            "client_id": "app-1",
            "redirect_uri": BACK,
            "response_type": "code",
            "state": "st",
            "code_challenge_method": "S256",
            "code_challenge": CHALLENGE,
        } | params
        chosen = {name: value for name, value in query.items() if value is not None}
        return await self.http.get(f"{self.asana.oauth_url}/oauth_authorize", params=chosen)

    async def code(self, **params: str | None) -> str:
        return URL((await self.ask(**params)).headers["Location"]).query["code"]

    async def call(self, name: str, **fields: str | None) -> httpx.Response:
        form = {"client_id": "app-1", "client_secret": "s3cret"} | fields
        chosen = {key: value for key, value in form.items() if value is not None}
        return await self.http.post(f"{self.asana.oauth_url}/{name}", data=chosen)

    async def redeem(self, code: str, /, **fields: str | None) -> httpx.Response:
        usual = {"redirect_uri": BACK, "code_verifier": VERIFIER, "code": code}
        form = {"grant_type": "authorization_code"} | usual | fields
        return await self.call("oauth_token", **form)

    async def refresh(self, token: str | None, **fields: str | None) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token} | fields
        return await self.call("oauth_token", **form)

    async def tokens(self, scope: str | None = None) -> dict[str, Any]:
        tokens: dict[str, Any] = (await self.redeem(await self.code(scope=scope))).json()
        return tokens

    async def status(self, token: str, path: str = "/users/me") -> int:
        async with local_asana.client(self.asana, token) as api:
            return (await api.get(path)).status_code


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with local_asana.running() as world, httpx.AsyncClient(verify=NO_TLS) as http:
        yield App(world, http)


def error_of(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert {"error", "error_description"} <= body.keys()
    return response.status_code, body["error"]


# The user consents, or not


async def test_user_is_sent_back_with_a_code_and_the_state(app: App) -> None:
    answer = await app.ask()
    assert answer.status_code == 302
    back = URL(answer.headers["Location"])
    assert str(back.with_query(None)) == "https://app.example.com/back"
    assert back.query.keys() == {"from", "code", "state"}
    assert back.query["state"] == "st"


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"scope": "tasks:read tasks:sing"}, "invalid_scope"),
    ],
)
async def test_app_is_told_of_its_mistake_in_the_redirect(
    app: App, params: dict[str, str | None], error: str
) -> None:
    back = URL((await app.ask(**params)).headers["Location"])
    assert (back.query["error"], back.query["state"]) == (error, "st")
    assert "code" not in back.query


async def test_user_who_refuses_is_sent_back_without_a_code() -> None:
    async with (
        local_asana.running(consents=False) as world,
        httpx.AsyncClient(verify=NO_TLS) as http,
    ):
        app = App(world, http)
        back = URL((await app.ask(state=None)).headers["Location"])
        assert back.query["error"] == "access_denied"
        assert "state" not in back.query
        world.asana.oauth.consents = True
        assert await app.code()


@pytest.mark.parametrize(
    "params",
    [
        {"client_id": None},
        {"client_id": "unknown"},
        {"redirect_uri": None},
        {"redirect_uri": "/back"},
        {"redirect_uri": "http://[::1"},
    ],
)
async def test_nobody_is_sent_to_where_the_app_may_not_be(params: dict[str, str | None]) -> None:
    options = {"oauth_clients": {"app-1": "s3cret"}}
    async with local_asana.running(**options) as world, httpx.AsyncClient(verify=NO_TLS) as http:
        answer = await App(world, http).ask(**params)
        assert answer.status_code == 400
        assert "Location" not in answer.headers


# Tokens for a code


async def test_code_gives_tokens_and_says_whose_they_are(app: App) -> None:
    answer = await app.redeem(await app.code())
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert len({body.pop("access_token"), body.pop("refresh_token")}) == 2
    assert body == {
        "token_type": "bearer",
        "expires_in": 3600,
        "data": {
            "id": 1201,
            "gid": "1201",
            "name": "Robin Example",
            "email": "robin@example.com",
        },
    }


async def test_code_without_a_challenge_needs_no_verifier(app: App) -> None:
    code = await app.code(code_challenge=None, code_challenge_method=None)
    assert (await app.redeem(code, code_verifier=None)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"code": "made-up"}, (400, "invalid_grant")),
        ({"redirect_uri": "https://app.example.com/"}, (400, "invalid_grant")),
        ({"code_verifier": "another"}, (400, "invalid_grant")),
        ({"code_verifier": None}, (400, "invalid_grant")),
        ({"client_id": "app-2"}, (400, "invalid_grant")),
        ({"client_id": None}, (401, "invalid_client")),
        ({"client_secret": None}, (401, "invalid_client")),
        ({"code": None}, (400, "invalid_request")),
        ({"redirect_uri": None}, (400, "invalid_request")),
        ({"grant_type": None}, (400, "invalid_request")),
        ({"grant_type": "password"}, (400, "unsupported_grant_type")),
    ],
)
async def test_code_without_its_proofs_gives_nothing(
    app: App, fields: dict[str, str | None], error: tuple[int, str]
) -> None:
    code = await app.code()
    assert error_of(await app.redeem(code, **fields)) == error


async def test_code_is_good_once(app: App) -> None:
    code = await app.code()
    assert (await app.redeem(code)).status_code == 200
    assert error_of(await app.redeem(code)) == (400, "invalid_grant")


async def test_code_is_good_for_ten_minutes(clock: Clock) -> None:
    async with local_asana.running() as world, httpx.AsyncClient(verify=NO_TLS) as http:
        app = App(world, http)
        first, second = await app.code(), await app.code()
        clock.pass_(minutes=9, seconds=59)
        assert (await app.redeem(first)).status_code == 200
        clock.pass_(seconds=1)
        assert error_of(await app.redeem(second)) == (400, "invalid_grant")


@pytest.mark.parametrize("client", ["app-1", "app-2"])
async def test_named_apps_need_their_own_secret(client: str) -> None:
    options = {"oauth_clients": {"app-1": "another", "app-3": "s3cret"}}
    async with local_asana.running(**options) as world, httpx.AsyncClient(verify=NO_TLS) as http:
        app = App(world, http)
        assert error_of(await app.refresh("x", client_id=client)) == (401, "invalid_client")
        assert error_of(await app.refresh("x", client_id="app-3")) == (400, "invalid_grant")


# What tokens are good for


async def test_access_token_ends_after_an_hour_and_refreshing_gives_the_next(clock: Clock) -> None:
    async with local_asana.running() as world, httpx.AsyncClient(verify=NO_TLS) as http:
        app = App(world, http)
        tokens = await app.tokens()
        clock.pass_(seconds=3599)
        assert await app.status(tokens["access_token"]) == 200
        clock.pass_(seconds=1)
        async with local_asana.client(world.asana, tokens["access_token"]) as api:
            answer = await api.get("/webhooks", params={"workspace": "1331"})
        assert answer.status_code == 401
        [error] = answer.json()["errors"]
        assert error["message"].startswith("The bearer token has expired. If you have a refresh")
        assert answer.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')
        renewed = (await app.refresh(tokens["refresh_token"])).json()
        assert "refresh_token" not in renewed
        assert await app.status(renewed["access_token"]) == 200
        assert (await app.refresh(tokens["refresh_token"])).status_code == 200


async def test_rotated_refresh_token_is_good_once(app: App) -> None:
    tokens = await app.tokens()
    app.asana.oauth.rotates = True
    renewed = (await app.refresh(tokens["refresh_token"])).json()
    assert renewed["refresh_token"] != tokens["refresh_token"]
    assert error_of(await app.refresh(tokens["refresh_token"])) == (400, "invalid_grant")
    assert (await app.refresh(renewed["refresh_token"])).status_code == 200
    assert await app.status(tokens["access_token"]) == 200


async def test_refresh_token_of_another_app_is_no_good(app: App) -> None:
    tokens = await app.tokens()
    answer = await app.refresh(tokens["refresh_token"], client_id="app-2")
    assert error_of(answer) == (400, "invalid_grant")
    assert error_of(await app.refresh(None)) == (400, "invalid_request")


async def test_revoking_ends_the_refresh_token_and_its_access_tokens(app: App) -> None:
    tokens, others = await app.tokens(), await app.tokens()
    answer = await app.call("oauth_revoke", token=tokens["refresh_token"])
    assert (answer.status_code, answer.json()) == (200, {})
    assert await app.status(tokens["access_token"]) == 401
    assert error_of(await app.refresh(tokens["refresh_token"])) == (400, "invalid_grant")
    assert await app.status(others["access_token"]) == 200


async def test_what_cannot_be_revoked(app: App) -> None:
    tokens = await app.tokens()
    revoke = "oauth_revoke"
    answer = await app.call(revoke, token=tokens["access_token"])
    assert error_of(answer) == (400, "unsupported_token_type")
    assert (await app.call(revoke, token="made-up")).status_code == 200
    answer = await app.call(revoke, token=tokens["refresh_token"], client_id="app-2")
    assert answer.status_code == 200
    assert error_of(await app.call(revoke)) == (400, "invalid_request")
    assert error_of(await app.call(revoke, client_secret="")) == (401, "invalid_client")
    assert await app.status(tokens["access_token"]) == 200


@pytest.mark.parametrize("name", ["oauth_token", "oauth_revoke"])
async def test_form_that_cannot_be_read_is_an_invalid_request(app: App, name: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    url = f"{app.asana.oauth_url}/{name}"
    answer = await app.http.post(url, content=b"client_id=\xff", headers=headers)
    assert error_of(answer) == (400, "invalid_request")


async def test_next_access_token_sees_the_webhooks_of_the_one_before(app: App) -> None:
    tokens = await app.tokens()
    async with local_asana.client(app.asana, tokens["access_token"]) as api:
        data = {"resource": "8675309", "target": app.world.target}
        gid = (await api.post("/webhooks", json={"data": data})).json()["data"]["gid"]
    renewed = (await app.refresh(tokens["refresh_token"])).json()["access_token"]
    assert await app.status(renewed, f"/webhooks/{gid}") == 200
    assert await app.status("another-token", f"/webhooks/{gid}") == 404


async def test_app_out_of_band_is_shown_its_code(app: App) -> None:
    out_of_band = "urn:ietf:wg:oauth:2.0:oob"
    answer = await app.ask(redirect_uri=out_of_band)
    assert answer.status_code == 200
    form = {"grant_type": "authorization_code", "code": answer.text, "redirect_uri": out_of_band}
    issued = await app.http.post(
        f"{app.asana.oauth_url}/oauth_token",
        data=form | {"client_id": "app-1", "client_secret": "s", "code_verifier": VERIFIER},
    )
    assert issued.json()["token_type"] == "bearer"
    app.asana.oauth.consents = False
    assert (await app.ask(redirect_uri=out_of_band)).text == "access_denied"


# Scopes


@pytest.mark.parametrize(
    ("operation", "scope"),
    [
        ("getWebhooks", "webhooks:read"),
        ("createWebhook", "webhooks:write"),
        ("updateWebhook", "webhooks:write"),
        ("deleteWebhook", "webhooks:delete"),
        ("getEvents", ""),
        ("getTasksForProject", "tasks:read"),
        ("createSubtaskForTask", "tasks:write"),
        ("createStoryForTask", "stories:write"),
        ("addTaskForSection", "tasks:write"),
        ("createSectionForProject", ""),
        ("deleteTag", ""),
        ("getUser", "users:read"),
    ],
)
def test_scope_of_an_operation_is_the_documented_one(operation: str, scope: str) -> None:
    assert DESCRIBED[operation].scope == scope


@pytest.mark.parametrize("verb", ["read", "write", "delete"])
async def test_call_without_its_scope_is_refused_with_the_scope_named(app: App, verb: str) -> None:
    granted = {"webhooks:read", "webhooks:write", "webhooks:delete"} - {f"webhooks:{verb}"}
    token = (await app.tokens(" ".join(granted)))["access_token"]
    calls = {
        "read": [("GET", "/webhooks?workspace=1331"), ("GET", "/webhooks/1")],
        "write": [("POST", "/webhooks"), ("PUT", "/webhooks/1")],
        "delete": [("DELETE", "/webhooks/1")],
    }
    async with local_asana.client(app.asana, token) as api:
        for needed, listed in calls.items():
            for method, path in listed:
                answer = await api.request(method, path)
                assert (answer.status_code == 403) is (needed == verb)
                if needed == verb:
                    [error] = answer.json()["errors"]
                    message = f"Forbidden: the token lacks the required scope webhooks:{verb}"
                    assert error["message"] == message


@pytest.mark.parametrize("scope", [None, "default", "default openid email"])
async def test_token_without_granular_scopes_is_good_for_everything(
    app: App, scope: str | None
) -> None:
    token = (await app.tokens(scope))["access_token"]
    assert await app.status(token, "/webhooks?workspace=1331") == 200


def test_url_of_oauth_is_known_inside_async_with_only() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = AsanaSimulator().oauth_url
