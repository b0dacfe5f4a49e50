"""The digests of the deliveries that came in the last two days, in SQL.

A digest is random. A table in its order would have each delivery change a page of its own, and to
write that page costs more than all else. So what a delivery is known by begins with the time at
which its first event was created: a repeat has the same bytes, and what comes together lies
together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...models import Delivery
from ._file import SQL
from ._statements import KNOWN_FOR, Statements, chunks, placeholders

__all__ = ["Digests", "key_of"]

DIGEST_SIZE = 32

PRUNE_EVERY = 256
"""How many digests are kept before old ones are looked for."""

_find_time = re.compile(rb'"created_at":"([^"]{1,40})"').search


def key_of(delivery: Delivery) -> bytes:
    """Return what a delivery is known by: the time in its body, if it has one, and its digest."""
    found = _find_time(delivery.body)
    return found[1] + delivery.digest if found else delivery.digest


class Digests(Statements):
    """The calls about digests: each a part of a transaction of the writer."""

    _unswept = 0
    _swept = b""
    """The key up to which old ones were looked for; from the last one on it begins again."""
    _has_seen = True
    """Whether digests of version 4 of the schema may be left, which stand without a time."""

    def _find_digests(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return when those of these keys were received that are known."""
        found = self._find("find_digests", keys)
        if self._has_seen:
            of_digest = {key[-DIGEST_SIZE:]: key for key in keys}
            seen = self._find("find_seen", tuple(of_digest))
            found.update((of_digest[digest], at) for digest, at in seen.items())
        return found

    def _find(self, name: str, keys: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for chunk in chunks(keys):
            rows = self._execute(placeholders(SQL[name], len(chunk)), chunk)
            found.update(rows.fetchall())
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
