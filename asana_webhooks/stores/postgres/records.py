"""How values are given to the statements, and read from their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from ...models import Claim, DeadLetter, Delivery, Route, WebhookFilter
from .._encryption import EncryptedSecret, SecretCipher

__all__ = ["claim_of", "clean", "is_text", "letter_of", "numbers_of", "route_of", "text_of"]

_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])


def text_of(filters: Sequence[WebhookFilter] | None) -> str | None:
    """Return filters as JSON, None for None."""
    return None if filters is None else msgspec.json.encode(filters).decode()


def route_of(row: Any, cipher: SecretCipher) -> Route:
    """Return the route of a row. Raises StoreError when a secret of it cannot be opened."""
    id_, target, resource, filters, state, gid, created_at, heartbeat_at, _, *secrets = row
    fingerprint, ciphertext, candidates = secrets
    return Route(
        id=id_,
        target=target,
        resource=resource,
        filters=None if filters is None else _filters.decode(filters),
        state=state,
        gid=gid,
        secret=None
        if fingerprint is None
        else cipher.decrypt(id_, EncryptedSecret(fingerprint, ciphertext)),
        candidates=tuple(cipher.decrypt(id_, EncryptedSecret(*pair)) for pair in candidates),
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
            trace=trace,
            body=body,
        )
        for route, _, number, digest, received_at, attempts, done, trace, body in rows
    )
    return Claim(route=rows[0]["route"], fence=rows[0]["fence"], deliveries=deliveries)


def letter_of(row: Any) -> DeadLetter:
    """Return the dead letter of a row."""
    return DeadLetter(**{**row, "id": str(row["id"])})


def numbers_of(ids: Sequence[str]) -> list[int]:
    """Return each id that may be one of this store, once."""
    numbers = (int(id_) for id_ in ids if re.fullmatch(r"[1-9]\d{0,17}", id_, re.ASCII))
    return list(dict.fromkeys(numbers))


def is_text(text: str) -> bool:
    """Return whether PostgreSQL can hold it."""
    return clean(text) == text


def clean(text: str) -> str:
    """Return the text with escapes for what PostgreSQL cannot hold."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
