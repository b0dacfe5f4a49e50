"""Fixtures for the tests of programs that receive Asana's webhooks; pytest finds them by itself.

They are plain functions, and what they return is entered or awaited in the test: so they need no
plugin for asyncio, and work with each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .simulator.threaded import ThreadedSimulator
    from .testing import LocalClient

__all__ = ["asana_client", "asana_simulator", "make_asana_client"]

RETRY_DELAY = 0.01
"""Seconds before the first retry of a delivery: a test does not wait for Asana's."""


@pytest.fixture
def asana_simulator() -> Iterator[ThreadedSimulator]:
    """A local Asana that serves from a thread of its own while the test runs.

    Await its methods, or in a synchronous test hand them to ``asana_simulator.run``. For one with
    other options write a fixture of this name around ``threaded_simulator``.
    """
    from .simulator.threaded import threaded_simulator

    with threaded_simulator(retry_delay=RETRY_DELAY) as simulator:
        yield simulator


@pytest.fixture
def make_asana_client(asana_simulator: ThreadedSimulator) -> Iterator[Callable[..., LocalClient]]:
    """A function that returns a new client of the local Asana, to be entered with ``async with``.

    It takes the options of ``WebhooksClient``. Unless they say otherwise, the client has a port
    that nobody else gets, and keeps everything in memory.
    """
    from .testing import local_client

    with ExitStack() as stack:

        def make(**options: Any) -> LocalClient:
            return stack.enter_context(local_client(asana_simulator.base_url, **options))

        yield make


@pytest.fixture
def asana_client(make_asana_client: Callable[..., LocalClient]) -> LocalClient:
    """A client of the local Asana with a receiver, to be entered with ``async with``."""
    return make_asana_client()
