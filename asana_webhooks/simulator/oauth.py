"""OAuth: scopes, tokens, and the three calls that authorize, give tokens and revoke them.

The scopes are those that Asana's OpenAPI description documents. Calls for which it names none,
such as those on sections and events, need none here.

Tokens that were not issued here are personal access tokens, and each is good for everything.

The user answers at once, and is sent back with a code, or with ``access_denied``. Errors of the
token endpoint are those of RFC 6749; Asana documents no wordings, so the descriptions are ours.

Sources: https://developers.asana.com/docs/oauth, https://developers.asana.com/docs/oauth-scopes,
RFC 6749, RFC 7009, RFC 7636
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from yarl import URL

from .caller import Caller
from .objects import AsanaObject
from .operations import DESCRIBED
from .responses import Refused
from .state import State

__all__ = ["KNOWN", "Issued", "OAuthCalls", "OAuthError", "Tokens"]

GRANULAR = frozenset(each.scope for each in DESCRIBED.values() if each.scope)
KNOWN = GRANULAR | {"default", "openid", "email", "profile"}
"""The scopes that an app may ask for; ``default`` stands for everything."""

CODE_LASTS = timedelta(minutes=10)
ACCESS_LASTS = timedelta(seconds=3_600)
ENDED_KNOWN_FOR = timedelta(days=1)
"""How long it is remembered of an access token that it has ended."""

EXPIRED = (
    "The bearer token has expired. If you have a refresh token, please use it to request a new "
    "bearer token, otherwise allow the user to re-authenticate."
)


ERROR_URI = "https://developers.asana.com/docs/oauth"
OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"
"""The address to go back to of an app that has none: the code is shown instead."""


class OAuthError(Exception):
    """A call is refused with one of the error codes of RFC 6749 or RFC 7009."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(error, description)
        self.status = status
        self.body = {"error": error, "error_description": description}


class Issued(NamedTuple):
    """The tokens of one answer; a refresh token only when there is a new one."""

    access_token: str
    refresh_token: str | None
    user: AsanaObject


@dataclass(slots=True, eq=False)
class _Grant:
    client: str
    user: AsanaObject
    scopes: frozenset[str]
    revoked: bool = False


class _Code(NamedTuple):
    grant: _Grant
    redirect: str
    challenge: str | None
    ends_at: datetime


class Tokens:
    """Issues tokens and judges them; ``state`` tells the time, and which tokens are a user's own.

    ``clients`` maps the ids of the apps to their secrets; None takes any id with any secret.
    ``user`` is the gid of the user who is asked for consent, ``consents`` whether that one agrees,
    ``rotates`` whether each refresh gives a new refresh token and ends the old one. All four may be
    changed at any time.
    """

    def __init__(
        self,
        state: State,
        *,
        clients: Mapping[str, str] | None,
        consents: bool,
        rotates: bool,
    ) -> None:
        self.clients = clients
        self.consents = consents
        self.rotates = rotates
        self.user = state.first_user.gid
        self._state = state
        self._now = state.now
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, _Grant] = {}
        self._access: dict[str, tuple[_Grant, datetime]] = {}

    def clear(self) -> None:
        """Forget all codes and tokens."""
        for kept in (self._codes, self._refresh, self._access):
            kept.clear()

    def caller(self, token: str) -> Caller:
        """Return who calls with a token: an app in the name of a user.

        All tokens of one client and user are one app; each personal token is one of its own.
        """
        if token not in self._access:
            return Caller(token, token, self._state.user_of_token(token))
        grant = self._access[token][0]
        return Caller(token, f"client {grant.client} of {grant.user.gid}", grant.user)

    def check(self, token: str) -> None:
        """Return when a token is good; raises Refused with 401 when it or its user is gone."""
        if self.caller(token).user.deleted:
            raise Refused(401, "Not Authorized")
        if token not in self._access:
            return
        grant, ends_at = self._access[token]
        if grant.revoked:
            raise Refused(401, "Not Authorized")
        if ends_at <= self._now():
            challenge = f'Bearer error="invalid_token", error_description="{EXPIRED}"'
            raise Refused(401, EXPIRED, headers={"WWW-Authenticate": challenge})

    def check_scope(self, token: str, scope: str) -> None:
        """Return when a token has a scope, of which an empty one is needed for nothing.

        Raises Refused with 403 when it was not granted; how Asana words that is not documented.
        """
        if token not in self._access:
            return
        scopes = self._access[token][0].scopes
        if scope and scopes and "default" not in scopes and scope not in scopes:
            raise Refused(403, f"Forbidden: the token lacks the required scope {scope}")

    def is_known(self, client: str) -> bool:
        """Return whether there is an app with this id."""
        return bool(client) and (self.clients is None or client in self.clients)

    def authorize(self, client: str, redirect: str, scope: str, challenge: str | None) -> str:
        """Return the code that a user who consents is sent back with.

        Raises OAuthError when the user refuses, or a scope is unknown; ValueError when ``user`` is
        no user's gid.
        """
        user = self._state.thing(self.user, "user")
        scopes = frozenset(scope.split())
        if not scopes <= KNOWN:
            raise OAuthError("invalid_scope", f"unknown: {' '.join(sorted(scopes - KNOWN))}")
        if not self.consents:
            raise OAuthError("access_denied", "The user denied access to your application")
        code, now = secrets.token_urlsafe(24), self._now()
        ends_at = now + CODE_LASTS
        self._codes = {key: old for key, old in self._codes.items() if old.ends_at > now}
        self._codes[code] = _Code(_Grant(client, user, scopes), redirect, challenge, ends_at)
        return code

    def authenticate(self, client: str, secret: str) -> None:
        """Return when this is an app and its secret; raises OAuthError when it is not."""
        known = self.is_known(client) and bool(secret)
        if known and self.clients is not None:
            known = hmac.compare_digest(self.clients[client].encode(), secret.encode())
        if not known:
            raise OAuthError(
                "invalid_client", "The client_id or client_secret is wrong", status=401
            )

    def redeem(self, client: str, code: str, redirect: str, verifier: str) -> Issued:
        """Return the tokens for a code, which is used up by this.

        Raises OAuthError when the code is not this app's, has ended, or other proofs fail.
        """
        held = self._codes.pop(code, None)
        if held is None or held.grant.client != client or held.ends_at <= self._now():
            raise OAuthError("invalid_grant", "The code is invalid or has expired")
        if held.redirect != redirect:
            raise OAuthError("invalid_grant", "The redirect_uri is not the one of the code")
        if held.challenge is not None and _challenge(verifier) != held.challenge:
            raise OAuthError("invalid_grant", "The code_verifier does not fit the code_challenge")
        return self._issued(held.grant, self._issue_refresh(held.grant))

    def refresh(self, client: str, token: str) -> Issued:
        """Return a new access token for a refresh token; raises OAuthError when it is no good."""
        grant = self._refresh.get(token)
        if grant is None or grant.revoked or grant.client != client:
            refusal = OAuthError("invalid_grant", "The `refresh_token` provided was invalid.")
            refusal.body["error_uri"] = ERROR_URI  # as was seen of this error
            raise refusal
        if not self.rotates:
            return self._issued(grant, None)
        del self._refresh[token]
        return self._issued(grant, self._issue_refresh(grant))

    def revoke(self, client: str, token: str) -> None:
        """End a refresh token and all access tokens that came of it; unknown ones are ended.

        Raises OAuthError for access tokens, which Asana does not take.
        """
        if token in self._access:
            raise OAuthError("unsupported_token_type", "Send the refresh token, not a bearer token")
        grant = self._refresh.get(token)
        if grant is not None and grant.client == client:
            grant.revoked = True

    def _issued(self, grant: _Grant, refresh_token: str | None) -> Issued:
        return Issued(self._issue_access(grant), refresh_token, grant.user)

    def _issue_access(self, grant: _Grant) -> str:
        token, now = secrets.token_urlsafe(32), self._now()
        self._access = {
            key: issued for key, issued in self._access.items() if issued[1] > now - ENDED_KNOWN_FOR
        }
        self._access[token] = (grant, now + ACCESS_LASTS)
        return token

    def _issue_refresh(self, grant: _Grant) -> str:
        token = secrets.token_urlsafe(32)
        self._refresh[token] = grant
        return token


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class OAuthCalls:
    """Answers the calls below ``/-/``."""

    def __init__(self, tokens: Tokens) -> None:
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

        An app that is unknown, or says no address to go back to, is answered 400 instead. One that
        is out of band is answered with the code, or the error, as text.
        """
        query = request.query
        out_of_band = query.get("redirect_uri") == OUT_OF_BAND
        redirect = URL() if out_of_band else _redirect(query.get("redirect_uri", ""))
        if redirect is None or not self._tokens.is_known(query.get("client_id", "")):
            raise web.HTTPBadRequest(text="The client_id or the redirect_uri is invalid")
        try:
            back = {"code": self._code(query)}
        except OAuthError as error:
            back = error.body
        if out_of_band:
            return web.Response(text=back.get("code", back.get("error", "")))
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
        return _answer(_body(issued))

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

    async def revoke(self, request: web.Request) -> web.Response:
        """End a refresh token, and the access tokens that came of it."""
        try:
            form = await _form(request)
            self._tokens.authenticate(form.get("client_id", ""), form.get("client_secret", ""))
            self._tokens.revoke(form["client_id"], _needed(form, "token"))
        except OAuthError as error:
            return _answer(error.body, status=error.status)
        return _answer({})


def _body(issued: Issued) -> dict[str, Any]:
    user = issued.user
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
