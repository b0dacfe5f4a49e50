"""What lives in the event loop of another thread, as it is shown in this one."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from collections.abc import (
    Callable,
    Coroutine,
    ItemsView,
    Iterator,
    MutableMapping,
    ValuesView,
)
from concurrent.futures import Future
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal

__all__ = ["Thread", "View", "running_loop"]

T = TypeVar("T")

NO_ASYNCIO = (
    "await it in asyncio's event loop; for the plugin of anyio, write a fixture anyio_backend that"
    " returns 'asyncio'"
)
ENDED = "the local Asana has ended: use it inside `with`, or in the test whose fixture it is"


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, None without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Thread:
    """An event loop in a thread, seen from outside; ``portal`` leads into it."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._loop = portal.call(asyncio.get_running_loop)

    def start(self, function: Callable[..., Any]) -> Future[Any]:
        """Call the function there, and await what it returns if that can be awaited.

        Raises RuntimeError when the thread has ended.
        """
        try:
            return self._portal.start_task_soon(function)
        except RuntimeError:
            raise RuntimeError(ENDED) from None

    def is_here(self) -> bool:
        """Return whether this is that thread."""
        return running_loop() is self._loop

    def show(self, value: Any) -> Any:
        """Return what to show outside of a value that is used in the thread.

        Functions are called there. Of events and records, attributes are shown likewise. Other
        values are shown as they are.
        """
        if inspect.iscoroutinefunction(value):
            return self._awaited(value)
        if inspect.isroutine(value):
            return self._called(value)
        if isinstance(value, asyncio.Event) or dataclasses.is_dataclass(value):
            return View(self, value)
        if isinstance(value, MutableMapping):
            return LiveMapping(self, value)
        return value

    def _awaited(self, function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Any]:
        @functools.wraps(function)  # so that Python names it when nobody awaits it
        async def call(*args: Any, **kwargs: Any) -> T:
            if self.is_here():
                return await function(*args, **kwargs)
            if running_loop() is None:
                raise RuntimeError(NO_ASYNCIO)
            bound = functools.partial(function, *args, **kwargs)
            result: T = await asyncio.wrap_future(self.start(bound))
            return result

        return call

    def _called(self, function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            if self.is_here():
                return function(*args, **kwargs)
            result: T = self.start(functools.partial(function, *args, **kwargs)).result()
            return result

        return call


class View:
    """One object of the thread; two views of it are equal."""

    __slots__ = ("_object", "_thread")

    def __init__(self, thread: Thread, value: object) -> None:
        object.__setattr__(self, "_thread", thread)
        object.__setattr__(self, "_object", value)

    def __getattr__(self, name: str) -> Any:
        return self._thread.show(getattr(self._object, name))

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._object, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self._object is other._object

    def __hash__(self) -> int:
        return hash(self._object)

    def __repr__(self) -> str:
        """Return what the object says of itself."""
        return repr(self._object)


class LiveMapping(MutableMapping[Any, Any]):
    """A mapping of the thread, which may change it while it is gone through here."""

    def __init__(self, thread: Thread, mapping: MutableMapping[Any, Any]) -> None:
        self._thread = thread
        self._mapping = mapping

    def _copy(self) -> dict[Any, Any]:
        return {key: self._thread.show(value) for key, value in dict(self._mapping).items()}

    def __getitem__(self, key: Any) -> Any:
        return self._thread.show(self._mapping[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._mapping[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._mapping[key]

    def __len__(self) -> int:
        return len(self._mapping)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._copy())

    def items(self) -> ItemsView[Any, Any]:
        """Return the keys and values of this moment."""
        return self._copy().items()

    def values(self) -> ValuesView[Any]:
        """Return the values of this moment."""
        return self._copy().values()

    def __repr__(self) -> str:
        """Return what the mapping says of itself."""
        return repr(self._mapping)
