"""Authorizations and tokens: the beginning and the end of a login, and Asana's redirect read."""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .._logging import one_line
from .._options import TEXT, Rule, check_options, optional
from ..errors import LoginRequiredError
from ..models import Resource

__all__ = ["OUT_OF_BAND", "Authorization", "Token", "belongs_to", "read_code"]

OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"
"""The redirect URI of programs without a server: Asana shows the code, the user copies it."""

_VISIBLE = re.compile(r"[!-~]+")


_FIELDS = {
    "access_token": TEXT,
    "refresh_token": optional(TEXT),
    "expires_at": optional(Rule((datetime,), "a datetime")),
    "user": optional(Rule((Resource,), "a Resource")),
}


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that Asana granted; ``repr`` shows neither.

    ``expires_at`` is None when Asana did not say it, ``user`` who logged in, by gid and name.
    Raises ValueError for an access token that no header can carry and for a naive time, TypeError
    for a field of another type.
    """

    access_token: str
    refresh_token: str | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    user: Resource | None = None

    def __post_init__(self) -> None:
        """Check what type checkers cannot; httpx would quote a token that it cannot send."""
        check_options(_FIELDS, msgspec.structs.asdict(self))
        if not _VISIBLE.fullmatch(self.access_token):
            msg = "access_token must be visible ASCII characters"
            raise ValueError(msg)
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            msg = "expires_at must be aware, as in datetime.now(UTC)"
            raise ValueError(msg)

    def __repr__(self) -> str:
        return f"Token(expires_at={self.expires_at!r}, user={self.user!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("expires_at", self.expires_at), ("user", self.user)]

    def expires_within(self, seconds: float) -> bool:
        """Return whether the access token is over, or will be so soon."""
        soon = datetime.now(UTC) + timedelta(seconds=seconds)
        return self.expires_at is not None and self.expires_at <= soon


class Authorization(msgspec.Struct, frozen=True):
    """A login that has begun: send the user to ``url``, keep the rest for ``fetch_token``.

    All are strings, so that a web application can keep them in the user's session; nobody but
    this user may come by ``state`` and ``verifier``, which ``repr`` hides.
    """

    url: str
    state: str
    verifier: str
    redirect_uri: str

    def __repr__(self) -> str:
        return f"Authorization(redirect_uri={self.redirect_uri!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("redirect_uri", self.redirect_uri)]


def belongs_to(redirect: str, state: str) -> bool:
    """Return whether the URL of a redirect carries the state of this login, which is not empty."""
    found = _query(redirect).get("state", "")
    return state != "" and hmac.compare_digest(found.encode(), state.encode())


def read_code(answer: str, state: str) -> str:
    """Return the code of a redirect's URL, or the code itself that a user copied.

    Raises LoginRequiredError when the redirect belongs to another login, says that the user or
    Asana refused, or has no code.
    """
    answer = answer.strip()
    if answer and "://" not in answer and not answer.startswith("urn:"):
        return answer  # bound to this login by the verifier alone
    if not belongs_to(answer, state):
        raise LoginRequiredError(401, ("the redirect belongs to another login",))
    query = _query(answer)
    if "error" in query:
        raise _refused(query["error"])
    if not query.get("code"):
        raise LoginRequiredError(401, ("the redirect brought no code",))
    return query["code"]


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


_HINTS = {
    "access_denied": "log in again and allow the access",
    "forbidden_scopes": "register these scopes for the app in Asana's developer console",
    "invalid_scope": "register these scopes for the app in Asana's developer console",
}


def _refused(reason: str) -> LoginRequiredError:
    error = LoginRequiredError(401, (f"the login was refused: {one_line(reason)}",))
    error.hint = _HINTS.get(reason, error.hint)
    return error
