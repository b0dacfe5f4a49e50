"""The caller: which user a call is of, and by which app.

Source: https://developers.asana.com/docs/authentication
"""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from .objects import AsanaObject

__all__ = ["CALLER", "Caller", "caller_of"]


class Caller(NamedTuple):
    """The user and the token of a call.

    ``app`` stands for an app in the name of the user, or for the token itself.
    """

    token: str
    app: str
    user: AsanaObject

    def __repr__(self) -> str:
        """Return the user's gid: the rest is secret."""
        return f"Caller({self.user.gid})"


CALLER = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Return the caller of a call that was let in; raises KeyError for any other."""
    return request[CALLER]
