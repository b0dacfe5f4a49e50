"""How commands reach Asana: where it is, and with whose token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import click
import httpx

from .._asana_transport import TOKEN_VARIABLES
from ..api import WebhooksApi
from .login import token_of_login

__all__ = ["Access"]


class Access(NamedTuple):
    """What a command was told of the way to Asana."""

    base_url: str
    token_file: Path | None = None

    def token(self) -> str | httpx.Auth | None:
        """Return the token of the file, None when one is in the environment, else the login.

        Raises ClickException when there is none of them.
        """
        if self.token_file is not None:
            return self.token_file.read_text(encoding="utf-8", errors="replace").strip()
        if any(os.environ.get(name) for name in TOKEN_VARIABLES):
            return None
        login = token_of_login(base_url=self.base_url)
        if login is None:
            msg = (
                f"no access token: set {TOKEN_VARIABLES[0]}, name a file with --token-file, or run"
                " `asana-webhooks login`"
            )
            raise click.ClickException(msg)
        return login

    def api(self) -> WebhooksApi:
        """Return a client of Asana alone, without a receiver and a store."""
        return WebhooksApi(self.token(), base_url=self.base_url)
