"""Work that runs beside other work, and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

__all__ = ["background_task"]

T = TypeVar("T")


@asynccontextmanager
async def background_task(
    work: Coroutine[Any, Any, T], name: str
) -> AsyncIterator[asyncio.Task[T]]:
    """Run a coroutine beside the body; it ends with the body, and its error is the body's.

    A task and no task group: the body may be entered in one task and left in another. The work's
    end is waited for in a cancelled scope too: what its clean-up needs is still there then.
    """
    task = asyncio.create_task(work, name=f"asana-webhooks {name}")
    try:
        yield task
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()
