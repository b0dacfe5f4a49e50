"""What ``asana-webhooks login`` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..variables import LOGIN_FILE_VARIABLE
from .options import ASANA

__all__ = ["BASE_URL", "CLIENT_ID", "LOGIN_FILE", "command"]

CLIENT_ID = click.option(
    "--client-id",
    envvar="ASANA_CLIENT_ID",
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
BASE_URL = click.option(
    "--base-url", envvar="ASANA_BASE_URL", default=ASANA, show_default=True, show_envvar=True
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
def command(**options: Any) -> None:
    """Log in to Asana with a browser, by OAuth.

    The app's secret comes from the variable ASANA_CLIENT_SECRET. The token goes into a file that
    only you can read, with its own name for each Asana; a program uses it as
    AsanaOAuth(client_id, client_secret, token=TokenFile(path)), which also renews it.

    With --no-browser, open the URL anywhere, and paste the code, or the whole address that the
    browser was sent to even if it could not be shown.
    """
    from ..login import run

    run(**options)
