"""``asana-webhooks verify``: whether a signature fits, by a secret that is no argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..signature import verify_signature

__all__ = ["command"]

VARIABLE = "env:"


@click.command("verify")
@click.option(
    "--secret-from", required=True, help="A file with the secret, - for input, or env:VARIABLE."
)
@click.option("--signature", required=True, help="The header X-Hook-Signature, as it came.")
@click.option("--body", default="-", help="A file with the raw body, instead of standard input.")
def command(*, secret_from: str, signature: str, body: str) -> None:
    """Check the signature of a delivery: exit status 0 when it fits.

    The body is read from standard input, byte by byte as it came. Only one of body and secret can
    come from there.
    """
    if [secret_from, body] == ["-", "-"]:
        msg = "body and secret cannot both come from standard input: name a file for one of them"
        raise click.UsageError(msg)
    secret = _secret(secret_from)
    verify_signature(_read(body), signature, secret)
    click.echo("the signature fits")


def _secret(source: str) -> str:
    if source.startswith(VARIABLE):
        secret = os.environ.get(source.removeprefix(VARIABLE), "")
    else:
        secret = _read(source).decode(errors="replace")
    secret = secret.rstrip("\r\n")
    if not secret:
        msg = "there is no secret: --secret-from names an empty file, or a variable that is not set"
        raise click.ClickException(msg)
    return secret


def _read(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
