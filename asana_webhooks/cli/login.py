"""``asana-webhooks login``: OAuth from a terminal; the token goes into a file.

A program then uses that file, and renews the token in it::

    oauth = AsanaOAuth(client_id, client_secret, token=TokenFile(path))
    client = WebhooksClient(oauth, public_url="https://hooks.example.com/asana")
"""

from __future__ import annotations

import os
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .access import (
    CLIENT_ID_VARIABLE,
    CLIENT_SECRET_VARIABLE,
    LOGIN_FILE_VARIABLE,
    default_login_file,
)
from .options import BASE_URL
from .output import on_one_line

if TYPE_CHECKING:
    from ..auth import AsanaOAuth, Token

__all__ = ["CLIENT_ID", "LOGIN_FILE", "command"]

CLIENT_ID = click.option(
    "--client-id",
    envvar=CLIENT_ID_VARIABLE,
    show_envvar=True,
    required=True,
    help="The app's id, from Asana's developer console.",
)
LOGIN_FILE = click.option(
    "--login-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=LOGIN_FILE_VARIABLE,
    show_envvar=True,
    help="Where the token is kept; below ~/.config/asana-webhooks unless given.",
)


@click.command("login")
@CLIENT_ID
@click.option(
    "--scope", "scopes", multiple=True, help="All of the app unless given. May be repeated."
)
@click.option(
    "--redirect-uri",
    default="http://127.0.0.1:8765/callback",
    show_default=True,
    help="Where Asana sends the browser; it must be registered with the app.",
)
@click.option(
    "--browser/--no-browser", default=True, help="Or print the URL, and ask for the code."
)
@LOGIN_FILE
@BASE_URL
def command(
    *,
    client_id: str,
    scopes: tuple[str, ...],
    redirect_uri: str,
    browser: bool,
    login_file: Path | None,
    base_url: str,
) -> None:
    """Log in to Asana with a browser, by OAuth.

    The app's secret comes from the variable ASANA_CLIENT_SECRET. The token goes into a file that
    only you can read, with its own name for each Asana; a program uses it as
    AsanaOAuth(client_id, client_secret, token=TokenFile(path)), which also renews it.

    With --no-browser, open the URL anywhere, and paste the code, or the whole address that the
    browser was sent to even if it could not be shown.
    """
    import asyncio

    from ..auth import AsanaOAuth, TokenFile
    from ..auth import login as log_in

    path = login_file or default_login_file(base_url)
    oauth = AsanaOAuth(
        client_id,
        os.environ.get(CLIENT_SECRET_VARIABLE) or None,
        token=TokenFile(path),
        redirect_uri=redirect_uri,
        scopes=scopes,
        base_url=base_url,
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = asyncio.run(log_in(oauth, _show)) if browser else _paste(oauth)
    click.echo(f"logged in as {_name(token)}")
    click.echo(on_one_line(f"the token is in {path}"), err=True)


def _show(url: str) -> None:
    click.echo(f"Opening a browser. If none appears, open this URL:\n{url}", err=True)
    # Some browsers return only when they are closed, and the redirect comes before that.
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _paste(oauth: AsanaOAuth) -> Token:
    import asyncio

    authorization = oauth.authorization_url()
    click.echo(f"Open this URL in a browser:\n{authorization.url}", err=True)
    answer: str = click.prompt("The code, or the address you were sent to", err=True)
    return asyncio.run(oauth.fetch_token(answer, authorization))


def _name(token: Token) -> str:
    if token.user is None:
        return "a user whose name Asana did not tell"
    return on_one_line(f"{token.user.name or 'a user without a name'} ({token.user.gid})")
