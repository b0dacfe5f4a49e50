"""How many calls a token may make, and how many webhooks there may be.

Sources: https://developers.asana.com/docs/rate-limits,
https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from .answers import Refused
from .state import WebhookRecord

__all__ = ["Limits", "check_room"]

WINDOW = timedelta(minutes=1)
PER_RESOURCE = 1_000
PER_APP = 10_000

TOO_MANY = (
    "You've made too many requests and hit a rate limit. "
    "Please retry after the given amount of time."
)


class Limits:
    """Lets the calls of each token in, or refuses them with 429; None means no limit.

    ``per_minute`` is how many calls may come within any minute. Refused calls count as well: a
    client that comes back too early is refused for longer. ``gets`` and ``writes`` are calls at
    once; one too many of these is told to wait ``retry_after`` seconds.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        per_minute: int | None,
        gets: int | None,
        writes: int | None,
        retry_after: int,
    ) -> None:
        self._now = now
        self._per_minute = per_minute
        self._at_once = {True: gets, False: writes}
        self._retry_after = retry_after
        self._calls: dict[str, deque[datetime]] = {}
        self._under_way: Counter[tuple[str, bool]] = Counter()

    @contextlib.contextmanager
    def admitted(self, token: str, method: str) -> Iterator[None]:
        """Count a call as under way inside ``with``; raises Refused when it is one too many."""
        self._count(token)
        kind = (token, method == "GET")
        limit = self._at_once[kind[1]]
        if limit is not None and self._under_way[kind] >= limit:
            raise _too_many(self._retry_after)
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1

    def _count(self, token: str) -> None:
        if self._per_minute is None:
            return
        now = self._now()
        last = self._calls.setdefault(token, deque(maxlen=self._per_minute))
        refused = len(last) == self._per_minute and now - last[0] < WINDOW
        last.append(now)
        if refused:
            raise _too_many(math.ceil((last[0] + WINDOW - now).total_seconds()))


def _too_many(seconds: int) -> Refused:
    return Refused(429, TOO_MANY, headers={"Retry-After": str(seconds)})


def check_room(webhooks: Iterable[WebhookRecord], app: str, resource: str) -> None:
    """Return when the app may have one more webhook on the resource.

    Raises Refused with 403 when 1,000 watch the resource, or the app has 10,000. The numbers are
    Asana's; how it words the refusal is not documented.
    """
    on_resource = of_app = 0
    for webhook in webhooks:
        on_resource += webhook.resource == resource
        of_app += webhook.app == app
    if on_resource >= PER_RESOURCE:
        raise Refused(403, f"resource: There are {PER_RESOURCE} webhooks on it already, the limit")
    if of_app >= PER_APP:
        raise Refused(403, f"You have {PER_APP} webhooks already, which is the limit")
