"""Rows of the tables as models, and models as the values that functions take."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ..._logging import ThrottledLogger
from ...models import Claim, DeadLetter, Delivery, Route, Settlement, WebhookFilter
from .. import DUPLICATES_KNOWN_FOR
from .._codec import decode_filters
from .._encryption import webhook_name
from ._server import hidden

__all__ = [
    "claim_of",
    "clean",
    "deliveries_of",
    "is_text",
    "letter_of",
    "more_of",
    "new_values_of",
    "numbers_of",
    "route_of",
    "values_of",
]

throttled = ThrottledLogger(logging.getLogger(__name__))


def values_of(claim: Claim, settlement: Settlement, *, is_last: bool) -> tuple[Any, ...]:
    """Return the values that the function "settle" takes; None, which is quick, for empty lists."""
    return (
        claim.route,
        claim.fence,
        is_last,
        [number_of(id_) for id_ in settlement.removed],
        *_changes_of(settlement),
        *_letters_of(settlement),
        settlement.scope,
        settlement.events,
        DUPLICATES_KNOWN_FOR,
    )


def new_values_of(deliveries: Sequence[Delivery]) -> tuple[list[Any] | None, ...]:
    """Return the values of new deliveries that the function "put_state" takes."""
    if not deliveries:
        return (None,) * 6
    return (
        hidden(delivery.route for delivery in deliveries),
        [delivery.received_at for delivery in deliveries],
        [delivery.attempts for delivery in deliveries],
        [delivery.progress for delivery in deliveries],
        [delivery.trace for delivery in deliveries],
        hidden(delivery.body for delivery in deliveries),
    )


def _changes_of(settlement: Settlement) -> tuple[list[Any] | None, ...]:
    retries = settlement.retries
    changed = [*settlement.kept, *(retry.delivery for retry in retries)]
    if not changed:
        return (None,) * 7
    return (
        [number_of(delivery.id) if delivery.id else None for delivery in changed],
        [*(None for _ in settlement.kept), *(retry.delay for retry in retries)],
        [delivery.attempts for delivery in changed],
        [delivery.progress for delivery in changed],
        [None if delivery.id else delivery.received_at for delivery in changed],
        [None if delivery.id else delivery.trace for delivery in changed],
        hidden(None if delivery.id else delivery.body for delivery in changed),
    )


def _letters_of(settlement: Settlement) -> tuple[list[Any] | None, ...]:
    letters = settlement.letters
    if not letters:
        return (None,) * 6
    return (
        [letter.route for letter in letters],
        [clean(letter.reason) for letter in letters],
        [letter.received_at for letter in letters],
        [letter.buried_at for letter in letters],
        [letter.progress for letter in letters],
        hidden(letter.body for letter in letters),
    )


def route_of(row: Any) -> Route:
    """Return the route of a row without its secrets."""
    return Route(
        id=row["id"],
        target=row["target"],
        resource=row["resource"],
        account=row["account"],
        user=row["user"],
        filters=_filters_of(row["filters"], row["gid"], row["resource"]),
        state=row["state"],
        gid=row["gid"],
        created_at=row["created_at"],
        confirmed_at=row["confirmed_at"],
        heartbeat_at=row["heartbeat_at"],
        leaving=row["leaving"],
        retired_as=row["retired_as"],
    )


def _filters_of(text: str | None, gid: str, resource: str) -> tuple[WebhookFilter, ...] | None:
    """Return the filters of a text, None when it is damaged: they are set anew when compared."""
    try:
        return decode_filters(text)
    except msgspec.MsgspecError:
        message = "the filters of %s were damaged in the store, and are left out"
        throttled.log(logging.ERROR, "filters", message, webhook_name(gid, resource))
        return None


def claim_of(rows: list[Any]) -> Claim | None:
    """Return the claim that these rows are, None without any, and for a row of Nones."""
    if not rows or rows[0]["route"] is None:
        return None
    route, fence, previous, has_writes = rows[0][:4]
    return Claim(
        route=route,
        fence=fence,
        previous=previous,
        has_writes=has_writes,
        deliveries=deliveries_of(route, [row[4:] for row in rows]),
    )


def more_of(claim: Claim, rows: list[Any]) -> Claim | None:
    """Return the claim with the deliveries of these rows, None without any row."""
    if not rows:
        return None
    deliveries = deliveries_of(claim.route, [row[1:] for row in rows])
    return replace(claim, has_writes=rows[0][0], deliveries=deliveries)


def deliveries_of(route: str, rows: list[Any]) -> tuple[Delivery, ...]:
    """Return the deliveries of a claim's rows; a row of Nones is none."""
    return tuple(
        Delivery(
            id=str(number),
            route=route,
            digest=digest,
            received_at=received_at,
            attempts=attempts,
            progress=progress,
            crashes=crashes,
            trace=trace,
            body=body,
        )
        for number, digest, received_at, attempts, progress, crashes, trace, body in rows
        if number is not None
    )


def letter_of(row: Any) -> DeadLetter:
    """Return the dead letter of a row."""
    return DeadLetter(**{**row, "id": str(row["id"])})


_ID = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def number_of(id_: str) -> int:
    """Return the number that an id stands for; 0, which nothing has, for one of no store here."""
    return int(id_) if _ID.fullmatch(id_) else 0


def numbers_of(ids: Sequence[str]) -> list[int]:
    """Return the number of each id that may be one of this store, once."""
    return list(dict.fromkeys(number for id_ in ids if (number := number_of(id_))))


def is_text(text: str) -> bool:
    """Return whether PostgreSQL can hold it."""
    return clean(text) == text


def clean(text: str) -> str:
    """Return the text with escapes for what PostgreSQL cannot hold."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
