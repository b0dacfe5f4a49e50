"""The continuity that a store keeps: loaded, kept, told, and gaps closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from ._continuity import (
    Tally,
    Watch,
    continuity_of,
    is_stream,
    parts_of,
    scope_of,
)
from .errors import DecodeError
from .models import Continuity, Delivery, Route, Source, State
from .notices import source_of
from .stores import Store

__all__ = ["MARK", "close_gap", "is_watched", "keep", "list_continuity", "load"]

TRIES = 10
"""How often a gap is closed anew while others change the state of its scope."""

MARK = "alive"
"""The scope, which is that of no resource, in which programs note that they are there."""

logger = logging.getLogger(__name__)


async def load(store: Store, scope: str) -> tuple[Watch, int]:
    """Return the watch of a scope, and its version; a new one, and 0, when there is none.

    Raises StoreError.
    """
    state = await store.get_state(scope)
    return (Watch(), 0) if state is None else (_watch_of(state), state.version)


async def keep(
    store: Store, scope: str, version: int, watch: Watch, deliveries: Sequence[Delivery] = ()
) -> bool:
    """Keep a watch and put these deliveries; False, and nothing done, unless this is its version.

    Raises StoreError.
    """
    state = State(scope=scope, version=version, text=watch.encode())
    return await store.put_state(state, deliveries=deliveries)


def _watch_of(state: State) -> Watch:
    """Return the watch that a state holds; one that is damaged begins anew."""
    try:
        return Watch.decode(state.text)
    except DecodeError:
        text = "the continuity of resource %s was damaged in the store; it begins anew"
        logger.error(text, parts_of(state.scope)[1])
        return Watch()


def is_watched(route: Route) -> bool:
    """Return whether a route is of a webhook that is there, and stays."""
    return route.state == "confirmed" and not route.leaving


async def list_continuity(
    store: Store,
    *,
    is_ours: Callable[[Route], bool] = lambda route: True,
    tallies: Mapping[str, Tally] | None = None,
) -> list[Continuity]:
    """Return what is proven of each webhook of a store, and the gaps of those that are gone.

    ``tallies`` are by scope what was seen and is not in the store yet. Raises StoreError.
    """
    routes = [route for route in await store.list_routes() if is_watched(route) and is_ours(route)]
    watches = {
        state.scope: _watch_of(state).counted((tallies or {}).get(state.scope, Tally()))
        for state in await store.list_states()
        if is_stream(state.scope)
    }
    told = [
        continuity_of(
            watches.get(scope_of(route.account, route.resource), Watch()), source_of(route)
        )
        for route in routes
    ]
    for scope in watches.keys() - {scope_of(route.account, route.resource) for route in routes}:
        account, resource = parts_of(scope)
        if watches[scope].gaps:
            source = Source(webhook="", resource=resource, account=account)
            told.append(continuity_of(watches[scope], source))
    return told


async def close_gap(store: Store, id_: str) -> bool:
    """Close an open gap; False when there is none with this id. Raises StoreError."""
    for _ in range(TRIES):
        states = [state for state in await store.list_states() if is_stream(state.scope)]
        for state in states:
            watch = _watch_of(state)
            if all(gap.id != id_ for gap in watch.gaps):
                continue
            if await keep(store, state.scope, state.version, watch.without_gap(id_)):
                return True
            break
        else:
            return False
    return False
