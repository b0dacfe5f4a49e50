"""Handlers, and which events they get."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeAlias, TypeVar

import msgspec

from .models import Event

__all__ = ["Handler", "HandlerError", "Router"]

BLOCKED_FOR = 0.5
"""Seconds without an await after which a handler is said to block the event loop."""

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Event], Coroutine[Any, Any, object]]
H = TypeVar("H", bound=Handler)


class HandlerError(Exception):
    """A handler raised; ``handler`` is its name, ``__cause__`` what it raised."""

    def __init__(self, handler: str) -> None:
        self.handler = handler
        super().__init__(handler)


class _Subscription(msgspec.Struct, frozen=True):
    handler: Handler
    name: str
    resource_type: str | None
    subtype: str | None
    action: str | None
    field: str | None

    def wants(self, event: Event) -> bool:
        resource, change = event.resource, event.change
        return (
            self.resource_type in (None, resource.resource_type)
            and self.subtype in (None, resource.resource_subtype)
            and self.action in (None, event.action)
            and self.field in (None, change and change.field)
        )


class Router:
    """Gives each event to the handlers that want it, one after the other as registered."""

    def __init__(self) -> None:
        self._subscriptions: list[_Subscription] = []

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def on(
        self,
        resource_type: str | None = None,
        *,
        subtype: str | None = None,
        action: str | None = None,
        field: str | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that registers a coroutine function for the events that fit.

        What is None fits any event. Raises TypeError for a function that is not ``async def``.
        """
        if callable(resource_type):
            msg = "write on(), with parentheses"  # type: ignore[unreachable] # unless types lie
            raise TypeError(msg)

        def register(handler: H) -> H:
            name, is_async = _inspect(handler)
            if not is_async:
                msg = f"handler {name} must be `async def`: it runs on the event loop"
                raise TypeError(msg)
            self._subscriptions.append(
                _Subscription(handler, name, resource_type, subtype, action, field)
            )
            return handler

        return register

    async def dispatch(self, event: Event) -> None:
        """Run the event's handlers. Raises HandlerError for the first that fails.

        A handler that is cancelled fails too: only the caller knows who did it, and why.
        """
        for subscription in self._subscriptions:
            if subscription.wants(event):
                await _run(subscription, event)


def _inspect(handler: Callable[..., object]) -> tuple[str, bool]:
    """Return the handler's name, without arguments bound to it, and whether it is async."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    kind = type(handler)
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(kind.__call__)
    return getattr(handler, "__qualname__", kind.__qualname__), is_async


async def _run(subscription: _Subscription, event: Event) -> None:
    try:
        await _Watched(subscription.handler(event), subscription.name)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        raise HandlerError(subscription.name) from error


class _Watched(Awaitable[object]):
    """Awaits a coroutine and measures each of its steps: a long one has blocked the loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        self._coroutine = coroutine
        self._name = name

    def __await__(self) -> Generator[Any, Any, object]:
        resume: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            started = time.perf_counter()
            try:
                waited_for = resume(value)
            except StopIteration as stop:
                return stop.value
            finally:
                self._judge(time.perf_counter() - started)
            try:
                value = yield waited_for
                resume = self._coroutine.send
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine
                resume, value = self._coroutine.throw, error

    def _judge(self, seconds: float) -> None:
        if seconds > BLOCKED_FOR:
            logger.warning(
                "handler %s blocked the event loop for %.1f s; use await, or a thread",
                self._name,
                seconds,
            )
