"""The digests of the deliveries that came in the last two days, in SQL.

A digest is random. A table in its order would have each delivery change a page of its own, and to
write that page costs more than all else. So what a delivery is known by begins with the time at
which its first event was created: a repeat has the same bytes, and what comes together lies
together.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...models import Delivery
from ._file import SQL
from ._statements import KNOWN_FOR, Statements, chunks, placeholders

__all__ = ["Digests", "key_of"]

PRUNE_EVERY = 256
"""How many digests are kept before old ones are looked for."""

TIME = b'"created_at":"'

LONGEST_TIME = 40
"""How many bytes of a time are looked at."""


def key_of(delivery: Delivery) -> bytes:
    """Return what a delivery is known by: the time in its body, if it has one, and its digest."""
    body = delivery.body
    start = body.find(TIME) + len(TIME)
    end = body.find(b'"', start, start + LONGEST_TIME)
    if start < len(TIME) or end < 0:
        return delivery.digest
    return body[start:end] + delivery.digest


class Digests(Statements):
    """The calls about digests: each a part of a transaction of the writer."""

    _unswept = 0
    _swept = b""
    """The key up to which old ones were looked for; from the last one on it begins again."""
    _has_seen = True
    """Whether digests of version 4 of the schema may be left, which stand without a time."""

    def _find_digests(self, keys: dict[bytes, bytes]) -> dict[bytes, int]:
        """Return when those were received that are known; digests are given by their keys."""
        found: dict[bytes, int] = {}
        for chunk in chunks(tuple(keys)):
            statement = placeholders(SQL["find_digests"], len(chunk))
            found.update(self._execute(statement, chunk).fetchall())
        if self._has_seen:
            key_of_digest = {digest: key for key, digest in keys.items()}
            for chunk in chunks(tuple(key_of_digest)):
                statement = placeholders(SQL["find_seen"], len(chunk))
                rows = self._execute(statement, chunk).fetchall()
                found.update((key_of_digest[digest], at) for digest, at in rows)
        return found

    def _learn_digests(self, learnt: Sequence[tuple[bytes, int]]) -> None:
        """Keep keys with the times of their receipt; forget old ones twice as fast."""
        self._insert("learn_digests", learnt)
        self._unswept += len(learnt)
        if self._unswept >= PRUNE_EVERY:
            self._forget_digests(2 * self._unswept, learnt[-1][1])
            self._unswept = 0

    def _forget_digests(self, count: int, now: int) -> None:
        """Look at so many digests, behind those that were looked at last, and forget old ones."""
        row = self._run("find_last_digest", self._swept, count - 1).fetchone()
        if row is None:
            self._run("forget_last_digests", self._swept, now, KNOWN_FOR)
            self._swept = b""
        else:
            self._run("forget_digests", self._swept, row[0], now, KNOWN_FOR)
            (self._swept,) = row
        if self._has_seen:
            self._run("forget_seen", count, now, KNOWN_FOR)
            self._has_seen = bool(self._run("has_seen").fetchone()[0])
