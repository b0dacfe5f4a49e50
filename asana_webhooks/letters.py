"""Dead letters to choose from: those that a person wants to see, replay or discard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from .models import DeadLetter, Route
from .stores import Store

__all__ = ["select_letters"]

PAGE = 100


async def select_letters(
    store: Store,
    *,
    resource: str | None = None,
    webhook: str | None = None,
    reason: str | None = None,
    buried_before: datetime | None = None,
) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters, oldest first, that fit all that is given.

    ``resource`` and ``webhook`` are gids, ``reason`` is a part of the letter's reason whatever the
    case. Letters may be replayed or discarded meanwhile; what is buried only then is left out, so
    that replaying what fails again comes to an end.
    """
    begun = datetime.now(UTC)
    routes: dict[str, Route | None] = {}
    after = ""
    while letters := await store.dead_letters(limit=PAGE, after=after):
        for letter in letters:
            if letter.route not in routes:
                routes[letter.route] = await store.get_route(letter.route)
            route = routes[letter.route]
            if (
                letter.buried_at <= begun
                and (resource is None or (route and route.resource == resource))
                and (webhook is None or (route and route.gid == webhook))
                and (reason is None or reason.casefold() in letter.reason.casefold())
                and (buried_before is None or letter.buried_at < buried_before)
            ):
                yield letter
        after = letters[-1].id
