"""Handlers, which events they get, and what they raise to choose what comes next."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import WeakSet

import msgspec

from ._options import DELAY, FLAG, TEXT, Rule, check_options, optional
from ._vocabulary import ACTIONS, warn_about_pattern
from .models import DeadLetter, Event, WebhookFilter, check_gid

__all__ = [
    "Failure",
    "FailureHandler",
    "FailureSubscription",
    "GiveUp",
    "Handler",
    "Pattern",
    "Router",
    "Subscription",
    "TryAgain",
    "check_handler",
]

MEMORY = 4096
"""For how many kinds of events it is known which handlers want them."""

_PATTERN = ("resource_type", "subtype", "action", "field", "resource", "account")
_OPTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(_PATTERN, optional(TEXT, "None for any")),
    "echoes": FLAG,
    "name": optional(TEXT, "None for module:function"),
}


class GiveUp(Exception):  # noqa: N818 - a handler's decision, not an error that a call raises
    """A handler raises it when trying again cannot help: the object is gone, say.

    The event becomes a dead letter for this handler at once; ``reason`` stands in it.
    """

    reason = ""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


class TryAgain(Exception):  # noqa: N818 - a handler's decision, not an error that a call raises
    """A handler raises it to be given the event again ``after`` so many seconds.

    It counts as a failed attempt: after the last one the event becomes a dead letter. Raises
    TypeError or ValueError for what is no number of seconds.
    """

    after = 60.0

    def __init__(self, after: float = 60.0) -> None:
        check_options({"after": DELAY}, locals())
        self.after = after
        super().__init__(after)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One event that failed for one handler, whose name ``handler`` is.

    ``error`` is what the handler raised, a TimeoutError when its time was over. ``attempt`` counts
    from 1. ``dead_letter`` is set when the event is not tried again. Its ``id`` is '' while the
    store is away: it is kept later, or the event is tried again after all.
    """

    event: Event
    handler: str
    error: BaseException
    attempt: int
    dead_letter: DeadLetter | None = None


Handler: TypeAlias = Callable[[Event], Coroutine[Any, Any, object]]
FailureHandler: TypeAlias = Callable[[Failure], Coroutine[Any, Any, object]]
H = TypeVar("H", bound=Handler)
F = TypeVar("F", bound=FailureHandler)


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """The events that a handler wants; None fits any."""

    resource_type: str | None = None
    subtype: str | None = None
    action: str | None = None
    field: str | None = None
    resource: str | None = None
    account: str | None = None
    echoes: bool = False

    def fits(self, event: Event) -> bool:
        """Return whether the event is such a one."""
        resource, change, source = event.resource, event.change, event.source
        return (
            self.resource_type in (None, resource.resource_type)
            and self.subtype in (None, resource.resource_subtype)
            and self.action in (None, event.action)
            and self.field in (None, change and change.field)
            and self.resource in (None, source.resource)
            and self.account in (None, source.account)
        )


class Subscription(msgspec.Struct, frozen=True):
    """A handler, and which events it gets: those that fit any of its patterns.

    ``name`` is what the handler is known by in logs, in dead letters, and when an event is tried
    again, also by a process that was started anew.
    """

    handler: Handler
    name: str
    patterns: tuple[Pattern, ...] = (Pattern(),)

    def wants(self, event: Event) -> bool:
        """Return whether the handler gets this event, unless it is an echo."""
        return any(pattern.fits(event) for pattern in self.patterns)

    def wants_echo(self, event: Event) -> bool:
        """Return whether the handler gets this event also as an echo."""
        return any(pattern.echoes and pattern.fits(event) for pattern in self.patterns)

    def names(self, resource: str) -> bool:
        """Return whether the handler was registered for what watches this resource."""
        return any(pattern.resource == resource for pattern in self.patterns)


class FailureSubscription(msgspec.Struct, frozen=True):
    """A handler of failures, and its name in logs."""

    handler: FailureHandler
    name: str


class _Diversion(NamedTuple):
    """The handler that is given the events of one webhook, and whether others are not."""

    subscription: Subscription
    hides: Callable[[], bool]


def _do_nothing() -> None:
    pass


class Router:
    """Handlers of one or more modules, and which of them get an event.

    A client has one; it ``include``s those of other modules.
    """

    def __init__(self) -> None:
        self._parts: list[Subscription | FailureSubscription | Router] = []
        self._parents: WeakSet[Router] = WeakSet()
        self._handlers: dict[str, Subscription] = {}
        self._named_resources: frozenset[str | None] = frozenset()
        self._named_accounts: frozenset[str | None] = frozenset()
        self._known: dict[tuple[str | None, ...], tuple[Subscription, ...]] = {}
        self._diversions: dict[tuple[str, str], _Diversion] = {}  # by account and resource
        self.failure_handlers: tuple[FailureSubscription, ...] = ()
        """The handlers of failures, in the order of their registration."""
        self.on_change: Callable[[], None] = _do_nothing
        """Called after a handler was registered, here or in an included router."""

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def on(
        self,
        resource_type: str | None = None,
        *,
        subtype: str | None = None,
        action: str | None = None,
        field: str | None = None,
        resource: str | None = None,
        account: str | None = None,
        echoes: bool = False,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that registers a coroutine function for the events that fit.

        What is None fits any event. ``field`` is that of the event's change; ``resource`` is the
        gid of what the webhook watches, ``account`` whose webhook it is. Events that the program
        itself has caused, through ``request``, are left out, unless ``echoes``. A handler that is
        registered several times gets the events that fit any of it, each once.

        ``name`` is what the handler is known by over restarts; it is ``module:function`` unless
        given. Raises ValueError when another handler has that name, TypeError for a function that
        is not ``async def`` or takes no single argument, and for a pattern that is no text. A word
        that is not known of Asana is a UserWarning.
        """
        if callable(resource_type):
            msg = "write on(), with parentheses"  # type: ignore[unreachable] # unless types lie
            raise TypeError(msg)
        check_options(_OPTIONS, locals())
        if resource is not None:
            check_gid("resource", resource)
        warn_about_pattern(resource_type, subtype, action, field)
        pattern = Pattern(
            resource_type=resource_type,
            subtype=subtype,
            action=action,
            field=field,
            resource=resource,
            account=account,
            echoes=echoes,
        )

        def register(handler: H) -> H:
            known_by = check_handler(handler, "the event")
            self._add(Subscription(handler, name or known_by, (pattern,)))
            return handler

        return register

    def on_failure(self, handler: F = None) -> F:  # type: ignore[assignment] # to say what is wrong
        """Register a coroutine function, as a decorator, that is given each ``Failure``.

        Raises TypeError for a function that is not ``async def`` or takes no single argument.
        """
        if handler is None:
            msg = "write on_failure, without parentheses"  # type: ignore[unreachable] # see above
            raise TypeError(msg)
        self._add(FailureSubscription(handler, check_handler(handler, "the failure")))
        return handler

    def include(self, router: Router) -> None:
        """Add the handlers of another router, also those that it is given later.

        They come after what is registered here by now. Raises ValueError for a router that is
        included already or includes this one, and for a handler whose name another one has here.
        """
        if not isinstance(router, Router):
            msg = (  # type: ignore[unreachable] # unless types lie
                f"only a Router can be included, not {type(router).__name__}"
            )
            raise TypeError(msg)
        mine = {id(each) for top in self._tops() for each in top._tree()}
        if any(id(each) in mine for each in router._tree()):
            msg = "a router cannot be included twice, nor in itself"
            raise ValueError(msg)
        self._add(router)
        router._parents.add(self)

    def handlers(self, event: Event) -> tuple[Subscription, ...]:
        """Return the handlers that want the event, echo or not, in the order in which they run."""
        resource, change, source = event.resource, event.change, event.source
        if self._diversions:
            diversion = self._diversions.get((source.account, source.resource))
            if diversion is not None:
                return self._diverted(event, diversion)
        watched = source.resource if source.resource in self._named_resources else None
        account = source.account if source.account in self._named_accounts else None
        kind = (
            resource.resource_type,
            resource.resource_subtype,
            event.action,
            None if change is None else change.field,
            watched,
            account,
        )
        handlers = self._known.get(kind)
        if handlers is None:
            handlers = tuple(each for each in self._handlers.values() if each.wants(event))
            if len(self._known) >= MEMORY:
                self._known.clear()
            self._known[kind] = handlers
        return handlers

    def knows(self, name: str) -> bool:
        """Return whether a handler of this name is registered."""
        return name in self._handlers or any(
            each.subscription.name == name for each in self._diversions.values()
        )

    def divert(
        self, account: str, resource: str, handler: Handler, *, name: str, hides: Callable[[], bool]
    ) -> None:
        """Give the events of what an account watches to this handler first.

        While ``hides`` returns true no others get them but those that name the resource: the
        program has not asked for this webhook.
        """
        subscription = Subscription(handler, name, (Pattern(echoes=True),))
        self._diversions[account, resource] = _Diversion(subscription, hides)

    def end_diversion(self, account: str, resource: str) -> None:
        """Give the events of what an account watches to all who want them again."""
        self._diversions.pop((account, resource), None)

    def _diverted(self, event: Event, diversion: _Diversion) -> tuple[Subscription, ...]:
        wanting = (each for each in self._handlers.values() if each.wants(event))
        if diversion.hides():
            wanting = (each for each in wanting if each.names(event.source.resource))
        return (diversion.subscription, *wanting)

    def wanted_filters(self, resource: str, account: str = "") -> list[WebhookFilter] | None:
        """Return filters that pass what the handlers want of a resource that is watched.

        They are in the order of registration. Returns None, for every event, when a handler wants
        what filters cannot say, or when no handler wants anything of it.
        """
        patterns = [
            pattern
            for each in self._handlers.values()
            for pattern in each.patterns
            if pattern.resource in (None, resource) and pattern.account in (None, account)
        ]
        filters = [_as_filter(pattern) for pattern in patterns]
        known = [each for each in filters if each is not None and each != WebhookFilter()]
        return _fewest(known) or None if len(known) == len(filters) else None

    def _add(self, part: Subscription | FailureSubscription | Router) -> None:
        """Add a part here; whatever includes this router has it too, or all refuse it."""
        self._parts.append(part)
        changed = list(self._tree_above())
        try:
            joined = [(router, router._joined_handlers()) for router in changed]
        except ValueError:
            self._parts.pop()
            raise
        for router, handlers in joined:
            router._use(handlers)

    def _use(self, handlers: dict[str, Subscription]) -> None:
        patterns = [pattern for each in handlers.values() for pattern in each.patterns]
        self._handlers, self._known = handlers, {}
        self._named_resources = frozenset(pattern.resource for pattern in patterns)
        self._named_accounts = frozenset(pattern.account for pattern in patterns)
        self.failure_handlers = tuple(
            part for part in self._all_parts() if isinstance(part, FailureSubscription)
        )
        self.on_change()

    def _joined_handlers(self) -> dict[str, Subscription]:
        """Return each handler by its name. Raises ValueError when two have one."""
        joined: dict[str, Subscription] = {}
        for part in self._all_parts():
            if not isinstance(part, Subscription):
                continue
            same = joined.setdefault(part.name, part)
            if same.handler != part.handler:
                msg = (
                    f"two handlers are called {part.name}: give one another name, with on(name=…);"
                    " it is known by that when an event is tried again"
                )
                raise ValueError(msg)
            if same is not part:
                patterns = (*same.patterns, *part.patterns)
                joined[part.name] = Subscription(same.handler, same.name, patterns)
        return joined

    def _all_parts(self) -> Iterator[Subscription | FailureSubscription]:
        for part in self._parts:
            if isinstance(part, Router):
                yield from part._all_parts()
            else:
                yield part

    def _tree(self) -> Iterator[Router]:
        """Yield this router and all that it includes."""
        yield self
        for part in self._parts:
            if isinstance(part, Router):
                yield from part._tree()

    def _tree_above(self) -> Iterator[Router]:
        """Yield this router and all that include it."""
        yield self
        for parent in list(self._parents):
            yield from parent._tree_above()

    def _tops(self) -> Iterator[Router]:
        """Yield the routers that include this one and are included by none."""
        return (router for router in self._tree_above() if not router._parents)


def check_handler(handler: Callable[..., object], argument: str) -> str:
    """Return the name of a coroutine function that takes one argument: ``module:qualname``.

    Arguments that are bound to it are no part of the name. Raises TypeError for anything else.
    """
    name, is_async = _inspect(handler)
    short = name.partition(":")[2]
    if not is_async:
        msg = f"handler {short} must be `async def`: it runs on the event loop"
        raise TypeError(msg)
    try:
        # What a decorator has wrapped may take other arguments than it does itself.
        inspect.signature(handler, follow_wrapped=False).bind(None)
    except TypeError:
        msg = f"handler {short} must take one argument, {argument}"
        raise TypeError(msg) from None
    return name


def _inspect(handler: Any) -> tuple[str, bool]:
    """Return the handler's name, without arguments bound to it, and whether it is async."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    kind = type(handler)
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(kind.__call__)
    named = handler if hasattr(handler, "__qualname__") else kind
    return f"{_module_of(named)}:{named.__qualname__}", is_async


def _module_of(named: Any) -> str:
    """Return the module's name as whoever imports it has it, also for the program itself."""
    name: str = getattr(named, "__module__", None) or "?"
    if name not in ("__main__", "__mp_main__"):
        return name
    main = sys.modules[name]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    return PurePath(file).stem if file else name


def _as_filter(pattern: Pattern) -> WebhookFilter | None:
    """Return the filter that passes the same events; None when there is none."""
    action, field = pattern.action, pattern.field
    if field is not None and action is None:
        action = "changed"  # no other event has a change
    if action not in (None, *ACTIONS):
        return None
    return WebhookFilter(
        resource_type=pattern.resource_type,
        resource_subtype=pattern.subtype,
        action=action,
        fields=None if field is None or action != "changed" else (field,),
    )


def _fewest(filters: list[WebhookFilter]) -> list[WebhookFilter]:
    """Return the fewest filters that pass the same: fields joined, none that another covers."""
    fields: dict[WebhookFilter, dict[str, None] | None] = {}
    for each in filters:
        rest = msgspec.structs.replace(each, fields=None)
        seen = fields.setdefault(rest, {})
        if each.fields is None:
            fields[rest] = None
        elif seen is not None:
            seen.update(dict.fromkeys(each.fields))
    joined = [
        msgspec.structs.replace(rest, fields=None if names is None else tuple(names))
        for rest, names in fields.items()
    ]
    return [each for each in joined if not any(_covers(other, each) for other in joined)]


def _covers(wider: WebhookFilter, filter_: WebhookFilter) -> bool:
    """Return whether a filter passes all that another one does, and more."""
    names = ("resource_type", "resource_subtype", "action")
    return (
        wider != filter_
        and all(getattr(wider, name) in (None, getattr(filter_, name)) for name in names)
        and (wider.fields is None or set(wider.fields) >= set(filter_.fields or ()) != set())
    )
