"""``asana-webhooks login``: OAuth from a terminal; the token goes into a file.

A program then uses that file, and renews the token in it::

    oauth = AsanaOAuth(client_id, client_secret, token=TokenFile(path))
    client = WebhooksClient(oauth, public_url="https://hooks.example.com/asana")
"""

from __future__ import annotations

import asyncio
import os
import threading
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit

import click

from .._asana_transport import check_base_url
from ..auth import AsanaOAuth, Token, TokenFile
from ..auth import login as log_in
from .variables import LOGIN_FILE_VARIABLE, SECRET_VARIABLE

__all__ = ["default_login_file", "run", "token_of_login"]


def run(
    *,
    client_id: str,
    scopes: tuple[str, ...],
    redirect_uri: str,
    browser: bool,
    login_file: Path | None,
    base_url: str,
) -> None:
    """Log a user in, and keep the token in a file."""
    path = login_file or default_login_file(base_url)
    oauth = AsanaOAuth(
        client_id,
        os.environ.get(SECRET_VARIABLE) or None,
        token=TokenFile(path),
        redirect_uri=redirect_uri,
        scopes=scopes,
        base_url=base_url,
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = asyncio.run(log_in(oauth, _show)) if browser else _paste(oauth)
    click.echo(f"logged in as {_name(token)}")
    click.echo(f"the token is in {path}", err=True)


def _show(url: str) -> None:
    click.echo(f"Opening a browser. If none appears, open this URL:\n{url}", err=True)
    # Some browsers return only when they are closed, and the redirect comes before that.
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _paste(oauth: AsanaOAuth) -> Token:
    authorization = oauth.authorization_url()
    click.echo(f"Open this URL in a browser:\n{authorization.url}", err=True)
    answer: str = click.prompt("The code, or the address you were sent to", err=True)
    return asyncio.run(oauth.fetch_token(answer, authorization))


def _name(token: Token) -> str:
    if token.user is None:
        return "a user whose name Asana did not tell"
    text = f"{token.user.name or 'a user without a name'} ({token.user.gid})"
    return text if text.isprintable() else ascii(text)[1:-1]


def default_login_file(base_url: str) -> Path:
    """Return where the token for an Asana is kept: one file each, so none is sent to another.

    Raises ValueError when the URL cannot be Asana's. Source: the XDG Base Directory Specification.
    """
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = configured if configured.is_absolute() else Path.home() / ".config"
    url = urlsplit(check_base_url(base_url))
    name = "-".join(str(part) for part in (url.hostname, url.port) if part)
    return home / "asana-webhooks" / f"{name.replace(':', '-')}.json"


def token_of_login(
    *,
    base_url: str = "https://app.asana.com/api/1.0",
    login_file: Path | None = None,
    client_id: str | None = None,
) -> AsanaOAuth | None:
    """Return what authenticates calls as the user who logged in; None when nobody did.

    The file is that of ASANA_WEBHOOKS_LOGIN_FILE, or the default, unless given; the app's id comes
    from ASANA_CLIENT_ID unless given, its secret from ASANA_CLIENT_SECRET.
    Raises UsageError when somebody is logged in and there is no id to renew the token with,
    ValueError for a base URL that cannot work.
    """
    told = os.environ.get(LOGIN_FILE_VARIABLE)
    path = login_file or (Path(told) if told else default_login_file(base_url))
    if not path.exists():
        return None
    client = client_id or os.environ.get("ASANA_CLIENT_ID")
    if not client:
        msg = f"the login in {path} needs the app's id: set ASANA_CLIENT_ID"
        raise click.UsageError(msg)
    secret = os.environ.get(SECRET_VARIABLE) or None
    return AsanaOAuth(client, secret, token=TokenFile(path), base_url=base_url)
