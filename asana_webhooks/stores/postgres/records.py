"""How values are given to the statements, and read from their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from ...models import Claim, Delivery, Route, WebhookFilter

__all__ = ["claim_of", "clean", "is_text", "numbers_of", "route_of", "text_of"]

_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])


def text_of(filters: Sequence[WebhookFilter] | None) -> str | None:
    """Return filters as JSON, None for None."""
    return None if filters is None else msgspec.json.encode(filters).decode()


def route_of(row: Any) -> Route:
    """Return the route of a row."""
    id_, target, resource, filters, state, gid, secret, created_at, heartbeat_at, _, candidates = (
        row
    )
    return Route(
        id=id_,
        target=target,
        resource=resource,
        filters=None if filters is None else _filters.decode(filters),
        state=state,
        gid=gid,
        secret=secret,
        candidates=tuple(candidates),
        created_at=created_at,
        heartbeat_at=heartbeat_at,
    )


def claim_of(rows: list[Any]) -> Claim | None:
    """Return the claim that these rows are, None without any."""
    if not rows:
        return None
    deliveries = tuple(
        Delivery(
            id=str(number),
            route=route,
            digest=digest,
            received_at=received_at,
            attempts=attempts,
            done=done,
            body=body,
        )
        for route, _, number, digest, received_at, attempts, done, body in rows
    )
    return Claim(route=rows[0]["route"], fence=rows[0]["fence"], deliveries=deliveries)


def numbers_of(ids: Sequence[str]) -> list[int]:
    """Return each id that may be one of this store, once."""
    numbers = (int(id_) for id_ in ids if re.fullmatch(r"\d{1,18}", id_, re.ASCII))
    return list(dict.fromkeys(numbers))


def is_text(text: str) -> bool:
    """Return whether PostgreSQL can hold it."""
    return clean(text) == text


def clean(text: str) -> str:
    """Return the text with escapes for what PostgreSQL cannot hold."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
