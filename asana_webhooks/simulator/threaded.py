"""A local Asana in a thread of its own: for functions, and for coroutines of any event loop.

::

    with threaded_simulator() as asana:
        asana.run(asana.create_task("Fix the login", project=asana.project))  # in a function
        await asana.create_task("Fix the login", project=asana.project)  # in a coroutine

What waits for a receiver, as ``settled`` does, must not block the loop in which the receiver
lives. So everything that ``AsanaSimulator`` does stays a coroutine here, which runs in the thread
whichever loop awaits it, and the one way to wait without ``await`` refuses to block a running loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
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
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from .loops import running_loop
from .simulator import AsanaSimulator

__all__ = ["Thread", "ThreadedSimulator", "View", "threaded_simulator"]

T = TypeVar("T")

NO_ASYNCIO = (
    "await it in asyncio's event loop; for the plugin of anyio, write a fixture anyio_backend that"
    " returns 'asyncio'"
)
ENDED = "the local Asana has ended: use it inside `with`, or in the test whose fixture it is"


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


LOOP_RUNS = (
    "run() would block the event loop of this thread, and the receiver with it if it lives there;"
    " await the call instead"
)


if TYPE_CHECKING:

    class _Shown(AsanaSimulator):
        """Whatever the local Asana can do, it can do from another thread."""

        _thread: Thread

        def __init__(self, thread: Thread, value: object) -> None: ...

else:
    _Shown = View


class ThreadedSimulator(_Shown):
    """An ``AsanaSimulator`` as seen from outside its thread; for type checkers it is one.

    Its coroutines may be awaited in any asyncio loop, and so may those of its events, such as
    ``handshake_done.wait()``; what else it has is used as if it were here.
    """

    def run(self, call: Coroutine[Any, Any, T], *, timeout: float = 60.0) -> T:
        """Return what a call of the local Asana returns, in code that no event loop runs.

        Raises RuntimeError where one does: await the call there. Raises TimeoutError when the call
        is not done after so many seconds.
        """
        try:
            if running_loop() is not None:
                raise RuntimeError(LOOP_RUNS)
            future: concurrent.futures.Future[T] = self._thread.start(lambda: call)
        except RuntimeError:
            call.close()
            raise
        return _result(future, timeout)


def _result(future: concurrent.futures.Future[T], timeout: float) -> T:
    # What future.result() raises after a time, the call itself may raise too.
    concurrent.futures.wait([future], timeout)
    if future.done():
        return future.result()
    future.cancel()
    msg = (
        f"the call is not done after {timeout:g} seconds: does the target of each webhook answer,"
        " and in another thread than the one that waits here?"
    )
    raise TimeoutError(msg)


@contextmanager
def threaded_simulator(**options: Any) -> Iterator[ThreadedSimulator]:
    """Serve a local Asana from a thread of its own; the options are those of ``AsanaSimulator``.

    At the end, whatever still runs in the thread is cancelled.
    """
    simulator = AsanaSimulator(**options)
    with start_blocking_portal("asyncio") as portal:
        try:
            with portal.wrap_async_context_manager(simulator):
                yield ThreadedSimulator(Thread(portal), simulator)
        finally:
            portal.call(portal.stop, True)  # noqa: FBT003 - the signature is anyio's
