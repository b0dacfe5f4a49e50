"""``asana-webhooks logout``: the end of a login."""

from __future__ import annotations

from pathlib import Path

import click

from .access import token_of_login
from .login import CLIENT_ID, LOGIN_FILE
from .options import BASE_URL

__all__ = ["command"]


@click.command("logout")
@CLIENT_ID
@LOGIN_FILE
@BASE_URL
def command(*, client_id: str, login_file: Path | None, base_url: str) -> None:
    """End the access of a login at Asana, and delete its token.

    The app's secret comes from the variable ASANA_CLIENT_SECRET.
    """
    import asyncio

    oauth = token_of_login(base_url=base_url, login_file=login_file, client_id=client_id)
    if oauth is None:
        click.echo("nobody is logged in", err=True)
        return
    asyncio.run(oauth.revoke())
    click.echo("logged out")
