"""What ``asana-webhooks verify`` is asked."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["command"]


@click.command("verify")
@click.option(
    "--secret-from", required=True, help="A file with the secret, - for input, or env:VARIABLE."
)
@click.option("--signature", required=True, help="The header X-Hook-Signature, as it came.")
@click.option("--body", default="-", help="A file with the raw body, instead of standard input.")
def command(**options: Any) -> None:
    """Check the signature of a delivery: exit status 0 when it fits.

    The body is read from standard input, byte by byte as it came. Only one of body and secret can
    come from there.
    """
    from ..verify import run

    run(**options)
