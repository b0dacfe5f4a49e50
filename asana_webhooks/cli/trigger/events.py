"""Causes an event at a local Asana, or delivers one to a receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import click
import httpx

from ..._addresses import is_public
from ..._asana_connections import check_base_url, find_proxy
from ...models import Route
from ...signature import sign
from ...stores import Store
from ..output import print_fields
from ..webhooks import existing_store
from .actions import ACTIONS, User
from .bodies import EventBuilder, body_of

__all__ = ["run"]

PROJECT = "8675309"
"""The project that a local Asana starts with."""

ANSWER_SECONDS = 10.0  # as long as Asana waits


def run(
    *,
    event: str,
    task: str | None,
    project: str | None,
    base_url: str | None,
    deliver: bool,
    store: str,
    resource: str | None,
    to: str | None,
    as_json: bool,
) -> None:
    """Cause an event at a local Asana, or deliver one, and print what it happened to."""
    if deliver:
        base = None if to is None else _check_address(to)
        route = asyncio.run(_find_route(existing_store(store), resource))
        builder = EventBuilder(project=project or route.resource, task=task)
        print_fields(_deliver(event, builder, route, base), as_json=as_json)
        return
    if resource is not None or to is not None:
        msg = "--resource and --to are for --deliver; at a local Asana use --project and --task"
        raise click.UsageError(msg)
    seen = _act(event, _local(base_url), project=project or PROJECT, task=task)
    print_fields({"event": event} | seen, as_json=as_json)


def _local(base_url: str | None) -> str:
    if not base_url:
        msg = "no local Asana is named: start one with `asana-webhooks simulate`, and set"
        raise click.UsageError(f"{msg} ASANA_BASE_URL to what it prints")
    origin = check_base_url(base_url).removesuffix("/api/1.0")
    if is_public(urlsplit(origin).hostname or ""):
        msg = "this is no local Asana: events are only triggered where nothing is lost by it"
        raise click.UsageError(msg)
    return origin


def _act(event: str, origin: str, *, project: str, task: str | None) -> dict[str, str]:
    if event == "task.added" and task is not None:
        msg = "task.added creates a task of its own: leave out --task"
        raise click.UsageError(msg)
    # A proxy of the environment would not find this Asana.
    with httpx.Client(
        base_url=origin, trust_env=False, verify=httpx.create_ssl_context(), timeout=ANSWER_SECONDS
    ) as http:
        user = User(http, project=project, task=task)
        ACTIONS[event](user)
    return user.seen


async def _find_route(opened: Store, resource: str | None) -> Route:
    """Return the confirmed route for a resource, or the one that there is."""
    async with opened as store:
        routes = await store.list_routes(resource)
    confirmed = [route for route in routes if route.state == "confirmed"]  # so it has a secret
    if not confirmed:
        where = f" on {resource}" if resource else ""
        msg = f"the store has no confirmed webhook{where}: check --store and --resource"
        raise click.ClickException(msg)
    _check_clear(confirmed)
    return confirmed[-1]  # the newest


def _check_clear(routes: Sequence[Route]) -> None:
    resources = dict.fromkeys(route.resource for route in routes)
    if len(resources) > 1:
        msg = f"say which webhook with --resource: {', '.join(resources)}"
        raise click.UsageError(msg)


def _check_address(to: str) -> str:
    try:
        return check_base_url(to)
    except ValueError:
        msg = "it must be http:// or https:// with a host, without user, password or query"
        raise click.BadParameter(msg, param_hint="--to") from None


def _deliver(event: str, builder: EventBuilder, route: Route, to: str | None) -> dict[str, object]:
    target = route.target if to is None else f"{to}/{route.id}"
    host, body = urlsplit(target).netloc, body_of(event, builder)
    try:
        answer = _post(target, body, sign(body, route.secret or ""))
    except httpx.HTTPError as error:
        # Its text, and what it was raised from, may quote the target.
        msg = f"no answer from {host}: {type(error).__name__}; say with --to where the receiver is"
        raise click.ClickException(msg) from None
    if answer.status_code not in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        msg = f"{host} answered {answer.status_code}; to Asana that is a failure"
        raise click.ClickException(msg)
    return {
        "event": event,
        "webhook": route.gid,
        "resource": route.resource,
        "host": host,
        "status": answer.status_code,
    }


def _post(target: str, body: bytes, signature: str) -> httpx.Response:
    headers = {"Content-Type": "application/json", "X-Hook-Signature": signature}
    with httpx.Client(proxy=find_proxy(target), trust_env=False, timeout=ANSWER_SECONDS) as http:
        return http.post(target, content=body, headers=headers)
