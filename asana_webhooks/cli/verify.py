"""Whether a signature fits a body, with a secret that stays out of the list of processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..signature import verify_signature

__all__ = ["run"]

VARIABLE = "env:"


def run(*, secret_from: str, signature: str, body: str) -> None:
    """Say that a signature fits. Raises SignatureError when it does not."""
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
