"""``asana-webhooks logout``: the end of a login."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from .login import token_of_login

__all__ = ["run"]


def run(*, client_id: str, login_file: Path | None, base_url: str) -> None:
    """Revoke the token of a login, and delete its file."""
    oauth = token_of_login(base_url=base_url, login_file=login_file, client_id=client_id)
    if oauth is None:
        click.echo("nobody is logged in", err=True)
        return
    asyncio.run(oauth.revoke())
    click.echo("logged out")
