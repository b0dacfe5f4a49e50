"""The webhook that the store holds for a resource, found alive or made anew."""

from __future__ import annotations

from typing import Any

import click

from ..client import WebhooksClient
from .access import Access
from .establish import Wanted, establishing_options, run
from .filters import FILTER_SYNTAX

__all__ = ["command"]


@click.command("ensure", epilog=FILTER_SYNTAX)
@establishing_options
def command(*, access: Access, as_json: bool, **options: Any) -> None:
    """Find the store's webhook for a resource, or make it.

    RESOURCE is the gid of what it watches. One that Asana does not know any more, or calls
    inactive, is replaced; filters that differ are updated.
    """
    run(WebhooksClient.ensure, Wanted(**options), access, as_json=as_json)
