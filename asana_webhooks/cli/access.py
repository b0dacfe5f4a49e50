"""Access to Asana: where it is, the token, and the variables that say so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    import httpx

    from ..api import WebhooksApi
    from ..auth import AsanaOAuth

__all__ = [
    "CLIENT_ID_VARIABLE",
    "CLIENT_SECRET_VARIABLE",
    "LOGIN_FILE_VARIABLE",
    "STORE_VARIABLE",
    "Access",
    "default_login_file",
    "token_of_login",
]

CLIENT_ID_VARIABLE = "ASANA_CLIENT_ID"
CLIENT_SECRET_VARIABLE = "ASANA_CLIENT_SECRET"  # noqa: S105 - the name of a variable
LOGIN_FILE_VARIABLE = "ASANA_WEBHOOKS_LOGIN_FILE"

STORE_VARIABLE = "ASANA_WEBHOOKS_STORE"
"""The variable with the store's URL, which may hold a password."""


class Access(NamedTuple):
    """The address of Asana and the token, as a command was told."""

    base_url: str
    token_file: Path | None = None

    def token(self) -> str | httpx.Auth | None:
        """Return the token of the file, None when one is in the environment, else the login.

        Raises ClickException when there is none of them.
        """
        from .._asana_transport import TOKEN_VARIABLES

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
        from ..api import WebhooksApi

        return WebhooksApi(self.token(), base_url=self.base_url)


def default_login_file(base_url: str) -> Path:
    """Return where the token for an Asana is kept: one file each, so none is sent to another.

    Raises ValueError when the URL cannot be Asana's. Source: the XDG Base Directory Specification.
    """
    from .._asana_connections import check_base_url

    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = configured if configured.is_absolute() else Path.home() / ".config"
    url = urlsplit(check_base_url(base_url))
    name = "-".join(str(part) for part in (url.hostname, url.port) if part)
    return home / "asana-webhooks" / f"{name.replace(':', '-')}.json"


def token_of_login(
    *, base_url: str, login_file: Path | None = None, client_id: str | None = None
) -> AsanaOAuth | None:
    """Return what authenticates calls as the user who logged in; None when nobody did.

    The file is that of ASANA_WEBHOOKS_LOGIN_FILE, or the default, unless given; the app's id comes
    from ASANA_CLIENT_ID unless given, its secret from ASANA_CLIENT_SECRET.
    Raises UsageError when somebody is logged in and there is no id to renew the token with,
    ValueError for a base URL that cannot work.
    """
    from ..auth import AsanaOAuth, TokenFile

    told = os.environ.get(LOGIN_FILE_VARIABLE)
    path = login_file or (Path(told) if told else default_login_file(base_url))
    if not path.exists():
        return None
    client = client_id or os.environ.get(CLIENT_ID_VARIABLE)
    if not client:
        msg = f"the login in {path} needs the app's id: set {CLIENT_ID_VARIABLE}"
        raise click.UsageError(msg)
    secret = os.environ.get(CLIENT_SECRET_VARIABLE) or None
    return AsanaOAuth(client, secret, token=TokenFile(path), base_url=base_url)
