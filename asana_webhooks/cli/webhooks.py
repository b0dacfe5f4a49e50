"""Webhooks at Asana and in the store, and how they are shown; for several commands."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import click
import msgspec

from ..errors import ApiError
from ..models import Route, Webhook
from .filters import filters_text
from .options import is_store_option_given
from .output import age, on_one_line, print_fields

if TYPE_CHECKING:
    from ..api import WebhooksApi
    from ..stores import Store

__all__ = [
    "FIELDS",
    "all_webhooks",
    "delete_each",
    "existing_store",
    "is_missing",
    "print_webhook",
    "routes_of",
    "shortened",
    "store_if_any",
    "webhook_record",
    "yes_or_no",
]

FIELDS = (
    *("resource.name", "resource.resource_type", "target", "active", "filters", "created_at"),
    *("last_success_at", "last_failure_at", "last_failure_content", "delivery_retry_count"),
    *("next_attempt_after", "failure_deletion_timestamp", "is_workspace_webhook"),
)
"""The fields that Asana is asked for; in lists it tells few of them unless asked."""

SHOWN = 4
"""Characters of a route that are shown: enough to tell routes apart, too few to use one."""


# Webhooks at Asana, and what the store knows of them


async def all_webhooks(
    api: WebhooksApi, workspace: str | None = None, resource: str | None = None
) -> list[Webhook]:
    """Return the webhooks of one workspace, or of each that the token sees.

    A workspace that Asana refuses to list is named, and left out; its refusal is raised when
    nothing was found elsewhere.
    """
    from ..api import walk_webhooks

    refusals: dict[str, ApiError] = {}
    walk = walk_webhooks(api, refusals, workspace=workspace, resource=resource, opt_fields=FIELDS)
    found = [webhook async for webhook in walk]
    for gid, refusal in refusals.items():
        click.echo(on_one_line(f"Warning: workspace {gid} is left out: {refusal}"), err=True)
    if refusals and not found:
        raise next(iter(refusals.values()))
    return found


async def delete_each(api: WebhooksApi, gids: Iterable[str]) -> AsyncIterator[str]:
    """Delete webhooks at Asana, and yield the gid of each that is gone.

    Raises ClickException in the end, with those that Asana refused to delete.
    """
    from ..api import REFUSALS

    refused = []
    for gid in gids:
        try:
            await api.delete_webhook(gid)
        except ApiError as error:
            if error.status not in REFUSALS:
                raise
            refused.append(f"webhook {gid} is not deleted: {error}")
        else:
            yield gid
    if refused:
        raise click.ClickException("; ".join(refused))


def is_missing(url: str) -> bool:
    """Return whether a store's URL names a file that does not exist."""
    path = url.removeprefix("sqlite:///")
    return path != url and not os.path.exists(path)


def existing_store(url: str) -> Store:
    """Return a store, not entered yet. Raises ClickException when its file does not exist."""
    from ..stores.urls import open_store

    if is_missing(url):
        raise _no_store_at(url)
    return open_store(url)


@asynccontextmanager
async def store_if_any(url: str) -> AsyncIterator[Store]:
    """Open the store; an empty one in its place when its file does not exist.

    To ask what a store holds does not make one. Raises ClickException when --store names a file
    that does not exist.
    """
    from ..stores.urls import open_store

    if is_missing(url) and is_store_option_given():
        raise _no_store_at(url)
    async with open_store("memory:" if is_missing(url) else url) as store:
        yield store


def _no_store_at(url: str) -> click.ClickException:
    msg = f"there is no store at {url}: name the one that the receivers use with --store"
    return click.ClickException(msg)


async def routes_of(store: Store, gids: Iterable[str]) -> list[Route]:
    """Return the routes of these webhooks whose secrets the store holds."""
    wanted = set(gids)
    return [route for route in await store.list_routes() if route.gid in wanted]


# How a webhook is shown


def shortened(target: str | None) -> str | None:
    """Return a target without what makes it secret: most of its last segment, and its query."""
    if target is None:
        return None
    try:
        url = urlsplit(target)
    except ValueError:  # of a webhook that another program made
        return "no URL"
    head, slash, last = url.path.rstrip("/").rpartition("/")
    last = f"{last[:SHOWN]}..." if len(last) > SHOWN else last
    host = url.netloc.rpartition("@")[2]
    return urlunsplit((url.scheme, host, head + slash + last, "..." if url.query else "", ""))


def webhook_record(webhook: Webhook, *, held: bool) -> dict[str, Any]:
    """Return a webhook in Asana's words, for JSON: the target shortened, without the secret.

    ``held`` says whether the store holds its secret.
    """
    shown = msgspec.structs.replace(webhook, target=shortened(webhook.target), secret=None)
    record: dict[str, Any] = msgspec.to_builtins(shown)
    del record["secret"]
    return record | {"secret_held": held}


def print_webhook(webhook: Webhook, *, held: bool, as_json: bool) -> None:
    """Print a webhook, for people or as JSON."""
    record = webhook_record(webhook, held=held)
    print_fields(record if as_json else record | _for_people(webhook, held=held), as_json=as_json)


def _for_people(webhook: Webhook, *, held: bool) -> dict[str, Any]:
    now = datetime.now(UTC)
    known = {name: getattr(webhook, name) for name in webhook.__struct_fields__}
    times = {name: _when(at, now) for name, at in known.items() if isinstance(at, datetime)}
    answers = {name: yes_or_no(is_so) for name, is_so in known.items() if isinstance(is_so, bool)}
    return {
        **times,
        **answers,
        "resource": _resource(webhook),
        "filters": filters_text(webhook.filters),
        "last_failure_content": webhook.last_failure_content or None,
        "secret_held": yes_or_no(held),
    }


def yes_or_no(is_so: bool | None) -> str | None:  # noqa: FBT001 - it is what is translated
    """Return the word for a truth value, None for None."""
    return None if is_so is None else "yes" if is_so else "no"


def _when(at: datetime, now: datetime) -> str:
    seconds = (now - at).total_seconds()
    distance = f"{age(seconds)} ago" if seconds >= 0 else f"in {age(-seconds)}"
    return f"{at:%Y-%m-%d %H:%M:%S} ({distance})"


def _resource(webhook: Webhook) -> str | None:
    resource = webhook.resource
    if resource is None:
        return None
    return " ".join(filter(None, (resource.gid, resource.resource_type, resource.name)))
