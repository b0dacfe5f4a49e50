"""The page, and what it is shown: records and routes, without what must stay secret."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from ...models import Continuity, Gap, Route
from ..output import describe
from ..recording import Attempt, Record

__all__ = ["read_page", "shown_record", "shown_route"]

LONGEST_BODY = 65_536
"""Bytes of a body that are shown."""

HIDDEN = frozenset(
    {
        *("x-hook-secret", "x-hook-signature", "authorization", "proxy-authorization"),
        *("cookie", "cf-access-client-secret"),
    }
)


@cache
def read_page() -> tuple[str, str]:
    """Return the page, and the policy that lets its own style and script be used and no other."""
    text = resources.files("asana_webhooks.cli.inspector").joinpath("page.html").read_text("utf-8")
    style, script = (_hash_of(tag, text) for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return text, policy


def _hash_of(tag: str, page: str) -> str:
    content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def shown_record(record: Record, route: Route | None) -> dict[str, Any]:
    """Return a request as the page shows it."""
    events = record.events()
    places = {event.key: place for place, event in enumerate(events)}
    return {
        "id": record.id,
        "at": record.received_at.isoformat(),
        "webhook": route and route.gid,
        "resource": route and route.resource,
        "method": record.method,
        "signed": record.signed,
        "verdict": record.verdict,
        "status": record.status,
        "reason": record.reason,
        "events": [describe(event) for event in events],
        "headers": [[name, _shown_value(name, value, record)] for name, value in record.headers],
        "body": record.body[:LONGEST_BODY].decode(errors="replace"),
        "bytes": len(record.body),
        "attempts": [_shown_attempt(attempt, places) for attempt in record.attempts],
    }


def shown_route(route: Route, continuity: Continuity | None = None) -> dict[str, Any]:
    """Return a webhook as the page shows it: when it was last heard of, and what is proven of it.

    None: nothing is known of its continuity.
    """
    return {
        "gid": route.gid,
        "resource": route.resource,
        "state": route.state,
        "filters": [_shown_filter(each) for each in route.filters or ()],
        "created_at": route.created_at.isoformat(),
        "heartbeat_at": route.heartbeat_at and route.heartbeat_at.isoformat(),
        "continuity": continuity and _shown_continuity(continuity),
    }


def _shown_continuity(continuity: Continuity) -> dict[str, Any]:
    latency = continuity.latency
    return {
        "evidence": continuity.evidence,
        "proven_until": continuity.proven_until and continuity.proven_until.isoformat(),
        "gaps": [_shown_gap(gap) for gap in continuity.gaps],
        "recovered": continuity.recovered,
        "dropped": continuity.dropped,
        "dropped_share": continuity.dropped_share,
        "latency": latency and {"median": latency.median, "p99": latency.p99},
    }


def _shown_gap(gap: Gap) -> dict[str, Any]:
    return {
        "id": gap.id,
        "start": gap.start.isoformat(),
        "end": gap.end and gap.end.isoformat(),
        "reason": gap.reason,
        "detail": gap.detail,
    }


def _shown_value(name: str, value: str, record: Record) -> str:
    if name.lower() in HIDDEN:
        return f"redacted, {len(value)} characters"
    return record.without_route(value)


def _shown_attempt(attempt: Attempt, places: dict[str, int]) -> dict[str, Any]:
    return {
        "kind": attempt.kind,
        "event": places.get(attempt.event),
        "ok": attempt.ok,
        "text": attempt.text,
        "ms": round(attempt.seconds * 1000),
        "at": attempt.at.isoformat(),
    }


def _shown_filter(item: Any) -> str:
    kind = "/".join(filter(None, (item.resource_type, item.resource_subtype))) or "anything"
    text = f"{kind} {item.action or 'whatever happens'}"
    return f"{text}: {', '.join(item.fields)}" if item.fields else text
