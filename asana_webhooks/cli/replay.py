"""``asana-webhooks replay``: recorded deliveries, posted again.

A line is ``{"received_at": "2026-07-04T10:11:12+00:00", "headers": {"X-Hook-Signature": "..."},
"body": "..."}``; other fields, such as ``listen --json`` adds, are left alone. The body is the text
of the bytes that were signed; bytes that are not UTF-8 are lone surrogates, U+DC80 to U+DCFF
(Python's ``surrogateescape``), so that each body comes back byte by byte. Such a line holds events
and a signature, but neither secret nor route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .options import JSON
from .output import print_records

if TYPE_CHECKING:
    import httpx

__all__ = ["Recorded", "command"]

SUCCESS = (200, 204)
"""The statuses that Asana takes as success; see https://developers.asana.com/docs/webhooks-guide."""

TIMEOUT = 10.0
"""Seconds that a target has for its answer, as at Asana."""


class Recorded(NamedTuple):
    """A post as it was received."""

    received_at: datetime
    headers: Mapping[str, str]
    body: bytes

    def fields(self) -> dict[str, Any]:
        """Return what a line of it holds; ``json.dumps`` makes it one of ASCII."""
        return {
            "received_at": self.received_at.isoformat(),
            "headers": dict(self.headers),
            "body": self.body.decode(errors="surrogateescape"),
        }

    @classmethod
    def from_line(cls, line: str | bytes) -> Recorded:
        """Return what a line holds; raises ValueError, which quotes none of it, when it is none."""
        try:
            record = json.loads(line)
            received_at = datetime.fromisoformat(record["received_at"])
            headers = {str(name): str(value) for name, value in record["headers"].items()}
            body = record["body"].encode(errors="surrogateescape")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            msg = 'no recorded delivery: {"received_at": ..., "headers": {...}, "body": "..."}'
            raise ValueError(msg) from None
        return cls(received_at, headers, body)


@click.command("replay")
@click.argument(
    "files",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    nargs=-1,
    required=True,
)
@click.option(
    "--to",
    "target",
    envvar="ASANA_WEBHOOKS_REPLAY_TO",
    required=True,
    show_envvar=True,
    help="The URL to post to, whole.",
)
@JSON
def command(*, files: tuple[str, ...], target: str, as_json: bool) -> None:
    """Post recorded deliveries again, in their order, and print what is answered.

    Each line of FILES (- for standard input) is one delivery, as `listen --json` prints them:
    {"received_at": "...", "headers": {...}, "body": "..."}. The exit status is 0 only if each was
    answered 200 or 204. Signatures are posted as they were, and fit the webhook's own secret only.

    Dead letters are replayed by `inbox replay`.
    """
    import asyncio

    _check_target(target)
    deliveries = [delivery for file in files for delivery in _read(file)]
    _report(asyncio.run(_post_all(target, deliveries)), as_json=as_json)


def _check_target(target: str) -> None:
    from .._asana_connections import check_base_url

    try:
        check_base_url(target.partition("?")[0])
    except ValueError:
        msg = "--to must be http:// or https:// with a host, without user and password"
        raise click.UsageError(msg) from None


def _read(path: str) -> Iterator[Recorded]:
    with click.open_file(path, "rb") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield Recorded.from_line(line)
        except ValueError as error:
            place = "standard input" if path == "-" else path
            msg = f"line {number} of {place} is {error}"
            raise click.ClickException(msg) from None


async def _post_all(target: str, deliveries: Sequence[Recorded]) -> list[dict[str, Any]]:
    import httpx

    from .._asana_connections import find_proxy

    async with httpx.AsyncClient(
        proxy=find_proxy(target),
        trust_env=False,  # it would ask a proxy for this machine
        verify=httpx.create_ssl_context(),
        timeout=TIMEOUT,
    ) as client:
        return [await _post(client, target, delivery) for delivery in deliveries]


async def _post(client: httpx.AsyncClient, target: str, delivery: Recorded) -> dict[str, Any]:
    import httpx

    from .forwarding import passed_on

    headers = passed_on(delivery.headers.items())
    status: int | str
    try:
        response = await client.post(target, content=delivery.body, headers=headers)
        status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # ValueError: a header that cannot be sent
        status = f"no answer ({type(error).__name__})"
    return {
        "received": f"{delivery.received_at:%Y-%m-%d %H:%M:%S}",
        "bytes": len(delivery.body),
        "status": status,
    }


def _report(records: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print what was answered. Raises ClickException unless each delivery was taken."""
    print_records(records, as_json=as_json, none="nothing to post")
    failed = sum(record["status"] not in SUCCESS for record in records)
    if failed:
        msg = (
            f"{failed} of {len(records)} were not answered 200 or 204; the receiver's log says why"
        )
        raise click.ClickException(msg)
