"""Options that several commands have."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = [
    "AGO",
    "INSPECT",
    "INSPECTOR_PORT",
    "JSON",
    "PUBLIC_URL",
    "STORE",
    "STORE_VARIABLE",
    "YES",
]

STORE_VARIABLE = "ASANA_WEBHOOKS_STORE"
"""The environment variable with the store's URL, which may hold a password."""

STORE = click.option(
    "--store",
    envvar=STORE_VARIABLE,
    default="sqlite:///asana-webhooks.db",
    show_default=True,
    show_envvar=True,
    help="The store's URL.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
PUBLIC_URL = click.option(
    "--public-url",
    envvar="ASANA_WEBHOOKS_PUBLIC_URL",
    required=True,
    show_envvar=True,
    help="Where the internet reaches the receiver; a route is appended.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask.")

INSPECTOR_PORT = 4480
"""Where the inspector's page is, unless it is put elsewhere."""

INSPECT = click.option(
    "--inspect",
    type=click.IntRange(0, 65_535),
    is_flag=False,
    flag_value=INSPECTOR_PORT,
    metavar="[PORT]",
    help=f"Serve a page that shows what comes, on this machine's port {INSPECTOR_PORT} or on PORT.",
)

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Ago(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    """A time in the past, given as an age."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no age; write 90s, 15m, 12h or 7d", param, ctx)
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * SECONDS[found[2]])


AGO = _Ago()
