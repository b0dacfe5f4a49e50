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

import concurrent.futures
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import start_blocking_portal

from .simulator import AsanaSimulator
from .views import Thread, View, running_loop

if TYPE_CHECKING:

    class _Shown(AsanaSimulator):
        """Whatever the local Asana can do, it can do from another thread."""

        _thread: Thread

        def __init__(self, thread: Thread, value: object) -> None: ...

else:
    _Shown = View

__all__ = ["ThreadedSimulator", "threaded_simulator"]

T = TypeVar("T")

LOOP_RUNS = (
    "run() would block the event loop of this thread, and the receiver with it if it lives there;"
    " await the call instead"
)


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
