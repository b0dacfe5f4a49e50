"""What ``asana-webhooks logout`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .login import BASE_URL, CLIENT_ID, LOGIN_FILE

__all__ = ["command"]


@click.command("logout")
@CLIENT_ID
@LOGIN_FILE
@BASE_URL
def command(**options: Any) -> None:
    """End the access of a login at Asana, and delete its token.

    The app's secret comes from the variable ASANA_CLIENT_SECRET.
    """
    from ..logout import run

    run(**options)
