"""Answers of the API: envelopes and errors.

Source: https://developers.asana.com/docs/errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

__all__ = ["Refused", "answer", "unknown"]

HELP = (
    "For more information on API status codes and how to handle them, read the docs on errors: "
    "https://developers.asana.com/docs/errors"
)


class Refused(Exception):  # noqa: N818 - it is an answer on its way, not a failure of this code
    """A call is answered with an error status, in Asana's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        phrase: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.headers = headers
        explanation = {"phrase": phrase} if phrase else {"help": HELP}
        self.body = {"errors": [{"message": message} | explanation]}

    def answer(self) -> web.Response:
        """Return the answer that says so."""
        return answer(self.body, status=self.status, headers=self.headers)


def unknown(what: str, gid: str) -> Refused:
    """Return the refusal for a gid that stands for nothing the caller may see."""
    is_one = gid.isascii() and gid.isdecimal() and int(gid[:20]) > 0
    return Refused(404, f"{what}: {'Unknown object' if is_one else 'Not a recognized ID'}: {gid}")


def answer(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer with Asana's usual headers."""
    usual = {"Content-Type": "application/json; charset=UTF-8", "X-Asana-Api-Version": "1.0"}
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=usual | dict(headers or {})
    )
