"""Handlers, and which events they get."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from ._options import TEXT, Rule, check_options, optional
from .models import Event

__all__ = ["Handler", "Router", "Subscription"]

Handler: TypeAlias = Callable[[Event], Coroutine[Any, Any, object]]
H = TypeVar("H", bound=Handler)

_PATTERN: Mapping[str, Rule] = dict.fromkeys(
    ("resource_type", "subtype", "action", "field"), optional(TEXT, "None for any")
)


class Subscription(msgspec.Struct, frozen=True):
    """A handler, its name in logs, and which events it gets; None fits any."""

    handler: Handler
    name: str
    resource_type: str | None = None
    subtype: str | None = None
    action: str | None = None
    field: str | None = None

    def wants(self, event: Event) -> bool:
        """Return whether the handler gets this event."""
        resource, change = event.resource, event.change
        return (
            self.resource_type in (None, resource.resource_type)
            and self.subtype in (None, resource.resource_subtype)
            and self.action in (None, event.action)
            and self.field in (None, change and change.field)
        )


class Router:
    """Knows which handlers get an event, in the order of their registration."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

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

        What is None fits any event. Raises TypeError for a function that is not ``async def``,
        and for a pattern that is no text.
        """
        if callable(resource_type):
            msg = "write on(), with parentheses"  # type: ignore[unreachable] # unless types lie
            raise TypeError(msg)
        check_options(_PATTERN, locals())

        def register(handler: H) -> H:
            name, is_async = _inspect(handler)
            if not is_async:
                msg = f"handler {name} must be `async def`: it runs on the event loop"
                raise TypeError(msg)
            self._subscriptions.append(
                Subscription(handler, name, resource_type, subtype, action, field)
            )
            return handler

        return register

    def handlers(self, event: Event) -> list[Subscription]:
        """Return the handlers that want the event, in the order in which they run."""
        return [each for each in self._subscriptions if each.wants(event)]


def _inspect(handler: Callable[..., object]) -> tuple[str, bool]:
    """Return the handler's name, without arguments bound to it, and whether it is async."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    kind = type(handler)
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(kind.__call__)
    return getattr(handler, "__qualname__", kind.__qualname__), is_async
