"""What the page is shown: records and routes as JSON, without what must stay secret."""

from __future__ import annotations

from typing import Any

from ...models import Route
from ..events import describe
from ..records import Attempt, Record

__all__ = ["shown_record", "shown_route"]

LONGEST_BODY = 65_536
"""Bytes of a body that are shown."""

HIDDEN = frozenset(
    {
        *("x-hook-secret", "x-hook-signature", "authorization", "proxy-authorization"),
        *("cookie", "cf-access-client-secret"),
    }
)


def shown_record(record: Record, route: Route | None) -> dict[str, Any]:
    """Return a request as the page shows it."""
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
        "events": [describe(event) for event in record.events()],
        "headers": [[name, _shown_value(name, value, record)] for name, value in record.headers],
        "body": record.body[:LONGEST_BODY].decode(errors="replace"),
        "bytes": len(record.body),
        "attempts": [_shown_attempt(attempt) for attempt in record.attempts],
    }


def shown_route(route: Route) -> dict[str, Any]:
    """Return a webhook as the page shows it; its health is when it was last heard of."""
    return {
        "gid": route.gid,
        "resource": route.resource,
        "state": route.state,
        "filters": [_shown_filter(each) for each in route.filters or ()],
        "created_at": route.created_at.isoformat(),
        "heartbeat_at": route.heartbeat_at and route.heartbeat_at.isoformat(),
    }


def _shown_value(name: str, value: str, record: Record) -> str:
    if name.lower() in HIDDEN:
        return f"redacted, {len(value)} characters"
    return record.without_route(value)


def _shown_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "kind": attempt.kind,
        "ok": attempt.ok,
        "text": attempt.text,
        "ms": round(attempt.seconds * 1000),
        "at": attempt.at.isoformat(),
    }


def _shown_filter(item: Any) -> str:
    kind = "/".join(filter(None, (item.resource_type, item.resource_subtype))) or "anything"
    text = f"{kind} {item.action or 'whatever happens'}"
    return f"{text}: {', '.join(item.fields)}" if item.fields else text
