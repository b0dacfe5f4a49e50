"""What a library of telemetry may see of the work; the default sees nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .models import Delivery
from .stats import Stats

__all__ = ["SILENT", "Telemetry"]


class Telemetry(Protocol):
    """Told of each request and of each attempt to handle a delivery; it raises nothing.

    It is given no secret, route, gid or body to pass on.
    """

    def receiving(self) -> AbstractContextManager[object]:
        """Surround the work on one request."""
        ...

    def answered(self, status: int, reason: str) -> None:
        """Note inside ``receiving`` how the request was answered; no reason is success."""
        ...

    def traceparent(self) -> str:
        """Return the ``traceparent`` of what is under way, to be kept with a delivery, or ''."""
        ...

    def processing(self, delivery: Delivery) -> AbstractContextManager[object]:
        """Surround one attempt to handle a delivery; an exception that passes means it failed."""
        ...

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Ask for a snapshot now and then, until cancelled."""
        ...


class _Silent:
    def receiving(self) -> AbstractContextManager[object]:
        return _NOTHING

    def answered(self, status: int, reason: str) -> None:
        pass

    def traceparent(self) -> str:
        return ""

    def processing(self, delivery: Delivery) -> AbstractContextManager[object]:
        return _NOTHING

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        pass


_NOTHING = nullcontext()
SILENT: Telemetry = _Silent()
"""Telemetry that nobody asked for."""
