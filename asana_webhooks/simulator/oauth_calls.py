"""The three calls of OAuth: authorize, token, revoke.

Users answer at once: they are sent back with a code, or with ``access_denied``. Errors of the
token endpoint are those of RFC 6749; Asana documents no wordings, so the descriptions are ours.

Source: https://developers.asana.com/docs/oauth
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from yarl import URL

from .state import State
from .tokens import ACCESS_LASTS, Issued, OAuthError, Tokens

__all__ = ["OAuthCalls"]


class OAuthCalls:
    """Answers the calls below ``/-/``; ``state`` names the user."""

    def __init__(self, state: State, tokens: Tokens) -> None:
        self._state = state
        self._tokens = tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path."""
        return [
            web.get("/-/oauth_authorize", self.authorize),
            web.post("/-/oauth_token", self.token),
            web.post("/-/oauth_revoke", self.revoke),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        """Send the user back to the app: with a code, or with the reason why there is none.

        An app that is unknown, or says no address to go back to, is answered 400 instead.
        """
        query = request.query
        redirect = _redirect(query.get("redirect_uri", ""))
        if redirect is None or not self._tokens.is_known(query.get("client_id", "")):
            raise web.HTTPBadRequest(text="The client_id or the redirect_uri is invalid")
        try:
            back = {"code": self._code(query)}
        except OAuthError as error:
            back = error.body
        if "state" in query:
            back["state"] = query["state"]
        raise web.HTTPFound(redirect.update_query(back))

    def _code(self, query: Mapping[str, str]) -> str:
        if query.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "The response_type must be code")
        challenge = query.get("code_challenge")
        if challenge is not None and query.get("code_challenge_method") != "S256":
            raise OAuthError("invalid_request", "The code_challenge_method must be S256")
        return self._tokens.authorize(
            query["client_id"], query["redirect_uri"], query.get("scope", ""), challenge
        )

    async def token(self, request: web.Request) -> web.Response:
        """Give out tokens for a code or a refresh token."""
        try:
            issued = self._issued(await _form(request))
        except OAuthError as error:
            return _answer(error.body, status=error.status)
        return _answer(self._body(issued))

    def _issued(self, form: Mapping[str, str]) -> Issued:
        client, kind = form.get("client_id", ""), form.get("grant_type")
        self._tokens.authenticate(client, form.get("client_secret", ""))
        if kind == "authorization_code":
            redirect, verifier = _needed(form, "redirect_uri"), form.get("code_verifier", "")
            return self._tokens.redeem(client, _needed(form, "code"), redirect, verifier)
        if kind == "refresh_token":
            return self._tokens.refresh(client, _needed(form, "refresh_token"))
        _needed(form, "grant_type")
        raise OAuthError("unsupported_grant_type", "Use authorization_code or refresh_token")

    def _body(self, issued: Issued) -> dict[str, Any]:
        user = self._state.user
        body = {
            "access_token": issued.access_token,
            "token_type": "bearer",
            "expires_in": int(ACCESS_LASTS.total_seconds()),
            "data": {
                "id": int(user.gid),
                "gid": user.gid,
                "name": user.name,
                "email": user.fields["email"],
            },
        }
        renewed = {"refresh_token": issued.refresh_token} if issued.refresh_token else {}
        return body | renewed

    async def revoke(self, request: web.Request) -> web.Response:
        """End a refresh token, and the access tokens that came of it."""
        try:
            form = await _form(request)
            self._tokens.authenticate(form.get("client_id", ""), form.get("client_secret", ""))
            self._tokens.revoke(form["client_id"], _needed(form, "token"))
        except OAuthError as error:
            return _answer(error.body, status=error.status)
        return _answer({})


def _redirect(text: str) -> URL | None:
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.scheme and url.raw_host else None


async def _form(request: web.Request) -> dict[str, str]:
    try:
        posted = await request.post()
    except (ValueError, LookupError):  # what aiohttp lets out: bytes, a charset, a missing boundary
        raise OAuthError("invalid_request", "The form cannot be read") from None
    return {name: value for name, value in posted.items() if isinstance(value, str)}


def _needed(form: Mapping[str, str], name: str) -> str:
    if not form.get(name):
        raise OAuthError("invalid_request", f"{name} is missing")
    return form[name]


def _answer(body: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
