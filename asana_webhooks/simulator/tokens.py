"""The tokens of OAuth: who got which, for how long, and for what.

Tokens that were not issued here are personal access tokens, and each is good for everything.

Sources: https://developers.asana.com/docs/oauth, RFC 6749, RFC 7009, RFC 7636
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from .answers import Refused
from .scopes import KNOWN

__all__ = ["Issued", "OAuthError", "Tokens"]

CODE_LASTS = timedelta(minutes=10)
ACCESS_LASTS = timedelta(seconds=3_600)

EXPIRED = (
    "The bearer token has expired. If you have a refresh token, please use it to request a new "
    "bearer token, otherwise allow the user to re-authenticate."
)


class OAuthError(Exception):
    """A call is refused with one of the error codes of RFC 6749 or RFC 7009."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(error, description)
        self.status = status
        self.body = {"error": error, "error_description": description}


class Issued(NamedTuple):
    """What a call to the token endpoint gives out; a refresh token only when there is a new one."""

    access_token: str
    refresh_token: str | None


@dataclass(slots=True, eq=False)
class _Grant:
    client: str
    scopes: frozenset[str]
    revoked: bool = False


class _Code(NamedTuple):
    grant: _Grant
    redirect: str
    challenge: str | None
    ends_at: datetime


class Tokens:
    """Issues tokens and judges them; ``now`` tells when they end.

    ``clients`` maps the ids of the apps to their secrets; None takes any id with any secret.
    ``consents`` is whether users agree, ``rotates`` whether each refresh gives a new refresh token
    and ends the old one. All three may be changed at any time.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        clients: Mapping[str, str] | None,
        consents: bool,
        rotates: bool,
    ) -> None:
        self.clients = clients
        self.consents = consents
        self.rotates = rotates
        self._now = now
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, _Grant] = {}
        self._access: dict[str, tuple[_Grant, datetime]] = {}

    def app(self, token: str) -> str:
        """Return what stands for the app that a token belongs to: all of one client are one."""
        issued = self._access.get(token)
        return f"client {issued[0].client}" if issued else token

    def check(self, token: str, scope: str | None) -> None:
        """Return when a call with this token may go on, for which this scope is needed.

        Raises Refused: 401 when the token has ended, 403 when the scope was not granted. How Asana
        words the 403 is not documented.
        """
        if token not in self._access:
            return
        grant, ends_at = self._access[token]
        if grant.revoked:
            raise Refused(401, "Not Authorized")
        if ends_at <= self._now():
            challenge = f'Bearer error="invalid_token", error_description="{EXPIRED}"'
            raise Refused(401, EXPIRED, headers={"WWW-Authenticate": challenge})
        if scope and grant.scopes and "default" not in grant.scopes and scope not in grant.scopes:
            raise Refused(403, f"Forbidden: the token lacks the required scope {scope}")

    def is_known(self, client: str) -> bool:
        """Return whether there is an app with this id."""
        return bool(client) and (self.clients is None or client in self.clients)

    def authorize(self, client: str, redirect: str, scope: str, challenge: str | None) -> str:
        """Return the code that a user who consents is sent back with.

        Raises OAuthError when the user refuses, or a scope is unknown.
        """
        scopes = frozenset(scope.split())
        if not scopes <= KNOWN:
            raise OAuthError("invalid_scope", f"unknown: {' '.join(sorted(scopes - KNOWN))}")
        if not self.consents:
            raise OAuthError("access_denied", "The user denied access to your application")
        code = secrets.token_urlsafe(24)
        ends_at = self._now() + CODE_LASTS
        self._codes[code] = _Code(_Grant(client, scopes), redirect, challenge, ends_at)
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
        return Issued(self._issue_access(held.grant), self._issue_refresh(held.grant))

    def refresh(self, client: str, token: str) -> Issued:
        """Return a new access token for a refresh token; raises OAuthError when it is no good."""
        grant = self._refresh.get(token)
        if grant is None or grant.revoked or grant.client != client:
            raise OAuthError("invalid_grant", "The refresh_token is invalid or was revoked")
        if not self.rotates:
            return Issued(self._issue_access(grant), None)
        del self._refresh[token]
        return Issued(self._issue_access(grant), self._issue_refresh(grant))

    def revoke(self, client: str, token: str) -> None:
        """End a refresh token and all access tokens that came of it; unknown ones are ended.

        Raises OAuthError for access tokens, which Asana does not take.
        """
        if token in self._access:
            raise OAuthError("unsupported_token_type", "Send the refresh token, not a bearer token")
        grant = self._refresh.get(token)
        if grant is not None and grant.client == client:
            grant.revoked = True

    def _issue_access(self, grant: _Grant) -> str:
        token = secrets.token_urlsafe(32)
        self._access[token] = (grant, self._now() + ACCESS_LASTS)
        return token

    def _issue_refresh(self, grant: _Grant) -> str:
        token = secrets.token_urlsafe(32)
        self._refresh[token] = grant
        return token


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
