"""Asana's OAuth endpoints: what is sent there, and what their answers mean.

Authlib makes the URL, the proof (PKCE) and the forms, and reads how long a token lives. Its
client is not used: it is a client itself, and could not be what authenticates another.

Source: https://developers.asana.com/docs/oauth
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import httpx
import msgspec

from .._asana_connections import find_base_url, find_proxy
from .._asana_http import CALL_SECONDS, make_client
from .._asana_responses import accept, unanswered
from .._logging import one_line
from ..errors import ApiError, AuthenticationError, DecodeError, LoginRequiredError
from ..models import Resource
from ._tokens import Authorization, Token

__all__ = ["Endpoints"]

_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}
_LENGTH = 48  # characters of 62 kinds: 285 random bits; a verifier has 43 at least (RFC 7636)


class Endpoints:
    """The endpoints of the Asana at ``base_url``, for one app.

    Calls raise an ApiError when Asana refuses, ConnectionFailedError when no answer comes,
    DecodeError when the answer is none of Asana's. None quotes what was sent.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str | None,
        *,
        base_url: str | None,
        http_client: httpx.AsyncClient | None,
    ) -> None:
        _require_authlib()
        self._client_id = client_id
        self._client_secret = client_secret
        self._base_url = find_base_url(base_url)
        self._proxy = find_proxy(self._base_url) if http_client is None else None
        self._given = http_client

    def begin(
        self,
        redirect_uri: str,
        scopes: Sequence[str],
        *,
        state: str | None = None,
        verifier: str | None = None,
    ) -> Authorization:
        """Return a new login; a state and a verifier that are not given are made at random.

        Nobody may be able to guess either.
        """
        from authlib.common.security import generate_token
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        state, verifier = state or generate_token(_LENGTH), verifier or generate_token(_LENGTH)
        url = prepare_grant_uri(
            self._url("oauth_authorize"),
            self._client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=list(scopes),
            state=state,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return Authorization(url, state, verifier, redirect_uri)

    async def exchange(self, code: str, authorization: Authorization) -> Token:
        """Return the token that a code stands for."""
        verifier = authorization.verifier
        return await self._grant(
            "authorization_code",
            {"redirect_uri": authorization.redirect_uri},
            {"code": code, "code_verifier": verifier},
        )

    async def renew(self, held: Token) -> Token:
        """Return the token that follows; it has the old refresh token if Asana sent no new one.

        Raises LoginRequiredError when access was revoked, and when there is nothing to renew with.
        """
        if held.refresh_token is None:
            said = "the access token is over, and came without a refresh token"
            raise LoginRequiredError(401, (said,))
        token = await self._grant("refresh_token", {}, {"refresh_token": held.refresh_token})
        return msgspec.structs.replace(
            token,
            refresh_token=token.refresh_token or held.refresh_token,
            user=token.user or held.user,
        )

    async def revoke(self, token: str) -> None:
        """End a refresh token and the access tokens made with it; an unknown one has ended."""
        secrets = {"token": token, **self._secret()}
        form = urlencode({"client_id": self._client_id, **secrets})
        await self._post("oauth_revoke", form, secrets)

    async def _grant(self, kind: str, known: dict[str, str], secrets: dict[str, str]) -> Token:
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        secrets = secrets | self._secret()
        form = prepare_token_request(kind, client_id=self._client_id, **known, **secrets)
        return _read_token(await self._post("oauth_token", form, secrets))

    async def _post(self, name: str, form: str, secrets: dict[str, str]) -> bytes:
        try:
            async with asyncio.timeout(CALL_SECONDS), self._client() as client:
                request = client.build_request(
                    "POST", self._url(name), headers=_HEADERS, content=form.encode()
                )
                # A given client may authenticate its calls by the very object that asks here.
                response = await client.send(request, auth=None, follow_redirects=False)
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            host = urlsplit(self._base_url).netloc
            # As for a GET: no webhook can have been made.
            raise unanswered(error, method="GET", host=host) from error
        return _accept(response, secrets.values())

    def _client(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        # Asked once an hour, so there is no connection to keep and none to close.
        return contextlib.nullcontext(self._given) if self._given else make_client(self._proxy)

    def _secret(self) -> dict[str, str]:
        return {"client_secret": self._client_secret} if self._client_secret else {}

    def _url(self, name: str) -> str:
        return f"{self._base_url.removesuffix('/api/1.0')}/-/{name}"


def _require_authlib() -> None:
    try:
        import authlib  # noqa: F401 - only whether it is there
    except ImportError:
        msg = "AsanaOAuth needs Authlib: pip install 'asana-webhooks[oauth]'"
        raise ValueError(msg) from None


def _accept(response: httpx.Response, secrets: Iterable[str]) -> bytes:
    """Return the body of a successful answer; raises the error of its kind for another."""
    body = response.content
    try:
        return accept(response.status_code, response.headers.get("Retry-After"), body)
    except ApiError as error:
        raise _explained(error, body, secrets) from None


_KINDS = {
    "invalid_grant": (
        LoginRequiredError,
        "log in again: the access was revoked, or the code was used, is too old or was made for"
        " another redirect_uri",
    ),
    "invalid_client": (
        AuthenticationError,
        "check client_id and client_secret in Asana's developer console; Asana may ask for a"
        " secret beside the proof (PKCE)",
    ),
}
_KINDS["unauthorized_client"] = _KINDS["invalid_client"]


def _explained(error: ApiError, body: bytes, secrets: Iterable[str]) -> ApiError:
    """Return the error with OAuth's own words (RFC 6749, 5.2), where the body holds them."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (ValueError, RecursionError):
        return error
    said = f"{refusal.error}: {refusal.error_description}".removesuffix(": ")
    for secret in secrets:
        said = said.replace(secret, "***")
    if refusal.error in _KINDS:
        kind, hint = _KINDS[refusal.error]
        error = kind(error.status)
        error.hint = hint
    error.errors = (one_line(said),)
    return error


class _Refusal(msgspec.Struct):
    error: str
    error_description: str = ""


def _read_token(body: bytes) -> Token:
    from authlib.oauth2.rfc6749.wrappers import OAuth2Token

    try:
        answer = OAuth2Token(msgspec.json.decode(body, type=dict[str, Any]))
        answer["user"] = _read_user(answer.get("data"))
        return msgspec.convert(dict(answer), Token, strict=False)
    except (ValueError, TypeError, OverflowError, RecursionError):
        msg = "Asana's answer holds no access token of the documented shape; check base_url"
        raise DecodeError(msg) from None


def _read_user(data: object) -> Resource | None:
    try:
        return msgspec.convert(data, Resource)
    except ValueError:
        return None  # a token is good without
