"""Choosing among dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from .models import DeadLetter, Route
from .stores import Store

__all__ = ["iter_dead_letters"]

LETTERS_PAGE = 100


async def iter_dead_letters(
    store: Store,
    *,
    resource: str | None = None,
    webhook: str | None = None,
    reason: str | None = None,
    buried_before: datetime | None = None,
) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters, oldest first, that fit all that is given.

    ``resource`` and ``webhook`` are gids, ``reason`` is a part of the letter's reason whatever the
    case. Letters may be replayed or discarded meanwhile. It goes through as many as there were at
    the beginning and no more, so that replaying what fails again comes to an end.
    """
    left = (await store.counts()).dead_letters
    routes: dict[str, Route | None] = {}
    after = ""
    while left > 0 and (
        letters := await store.dead_letters(limit=min(left, LETTERS_PAGE), after=after)
    ):
        left -= len(letters)
        for letter in letters:
            if letter.route not in routes:
                routes[letter.route] = await store.get_route(letter.route)
            route = routes[letter.route]
            if (
                (resource is None or (route and route.resource == resource))
                and (webhook is None or (route and route.gid == webhook))
                and (reason is None or reason.casefold() in letter.reason.casefold())
                and (buried_before is None or letter.buried_at < buried_before)
            ):
                yield letter
        after = letters[-1].id
