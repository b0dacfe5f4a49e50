"""What can be done with a delivery that was recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiohttp

from ...stores import Store
from ..forwarding import post, session
from ..recorder import Recorder
from ..records import Record

__all__ = ["Action", "handle_again", "post_again"]

Action: TypeAlias = Callable[[Record], Awaitable[str]]
"""Does it, and returns one line for the page."""


def post_again(receiver: Callable[[], str]) -> Action:
    """Return what posts a delivery to the receiver at its URL, as Asana does when it repeats."""

    async def act(record: Record) -> str:
        async with session() as http:
            try:
                status = await post(http, f"{receiver()}/{record.route}", record)
            except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
                return f"The receiver did not answer: {type(error).__name__}."
        return f"Posted; the receiver answered {status}."

    return act


def handle_again(recorder: Recorder, store: Store) -> Action:
    """Return what puts a delivery into the inbox once more, as if it were new."""

    async def act(record: Record) -> str:
        await store.put(recorder.again(record))
        return "It is in the inbox; handlers are given it now."

    return act
