"""A small authorization server, and one call of Asana's API that wants its tokens."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

CLIENT_ID = "1204619"
CLIENT_SECRET = "the-client-secret"
USER = {"gid": "4321", "name": "Greg Sanchez", "email": "gsanchez@example.com"}


class OAuthServer:
    """Grants, renews, revokes; ``asked`` are the grant types of all token requests."""

    def __init__(self) -> None:
        self.base_url = ""
        self.asked: list[str] = []
        self.calls: list[str] = []  # the access tokens that the API has met
        self.lifetime: int | None = 3600
        self.rotates = True
        self.refuses: str | None = None  # the error that the consent page sends back
        self.accepts_access_tokens = True
        self.answers: list[tuple[int, Any]] = []  # instead of the next tokens
        self.api_answers: list[tuple[int, Any]] = []  # instead of the next answers of the API
        self.gate = asyncio.Event()  # token requests have had their effect, but get no answer
        self.gate.set()
        self.waiting = 0
        self.revoked: list[str] = []
        self.access: set[str] = set()
        self.refresh: set[str] = {"refresh-0"}
        self.codes: dict[str, tuple[str, str]] = {}
        self.secrets: set[str] = {CLIENT_SECRET, "refresh-0"}
        self._number = 0

    def _make(self, kind: str) -> str:
        self._number += 1
        made = f"{kind}-{self._number}"
        self.secrets.add(made)
        return made

    async def authorize(self, request: web.Request) -> web.Response:
        query = request.query
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        if self.refuses:
            answer = {"error": self.refuses, "state": query["state"]}
        else:
            code = self._make("code")
            self.codes[code] = (query["code_challenge"], query["redirect_uri"])
            answer = {"code": code, "state": query["state"]}
        parts = urlencode(answer)
        raise web.HTTPFound(f"{query['redirect_uri']}?{parts}")

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append(str(form["grant_type"]))
        if self.answers:
            status, body = self.answers.pop(0)
            return answer_of(status, body)
        if form.get("client_secret") != CLIENT_SECRET:
            return answer_of(401, {"error": "invalid_client"})
        if not self._is_good(form):
            said = f"The token {form.get('refresh_token')!s} is invalid"
            return answer_of(400, {"error": "invalid_grant", "error_description": said})
        granted = self._grant(form)
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return web.json_response(granted)

    def _is_good(self, form: Any) -> bool:
        if form["grant_type"] == "refresh_token":
            return form["refresh_token"] in self.refresh
        challenge, redirect_uri = self.codes.pop(form["code"], ("", ""))
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return bool(proof == challenge and form["redirect_uri"] == redirect_uri)

    def _grant(self, form: Any) -> dict[str, Any]:
        granted: dict[str, Any] = {"access_token": self._make("access"), "token_type": "bearer"}
        granted["data"] = USER
        if self.lifetime is not None:
            granted["expires_in"] = self.lifetime
        if self.rotates or form["grant_type"] == "authorization_code":
            self.refresh.discard(str(form.get("refresh_token")))
            granted["refresh_token"] = self._make("refresh")
            self.refresh.add(granted["refresh_token"])
        if self.accepts_access_tokens:
            self.access.add(granted["access_token"])
        return granted

    async def revoke(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert (form["client_id"], form["client_secret"]) == (CLIENT_ID, CLIENT_SECRET)
        token = str(form["token"])
        if token.startswith("access"):
            return answer_of(400, {"error": "invalid_request"})
        self.revoked.append(token)
        self.refresh.discard(token)
        self.access.clear()
        return web.json_response({})

    async def workspaces(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.calls.append(token)
        if self.api_answers:
            status, body = self.api_answers.pop(0)
            return answer_of(status, body)
        if token not in self.access:
            return answer_of(401, {"errors": [{"message": "Not Authorized"}]})
        return web.json_response({"data": [{"gid": "1199", "name": "Here"}]})


def answer_of(status: int, body: Any) -> web.Response:
    if isinstance(body, str):
        return web.Response(status=status, text=body)
    return web.json_response(body, status=status)


@asynccontextmanager
async def run() -> AsyncIterator[OAuthServer]:
    server = OAuthServer()
    app = web.Application()
    app.router.add_get("/-/oauth_authorize", server.authorize)
    app.router.add_post("/-/oauth_token", server.token)
    app.router.add_post("/-/oauth_revoke", server.revoke)
    app.router.add_get("/api/1.0/workspaces", server.workspaces)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/1.0"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()
