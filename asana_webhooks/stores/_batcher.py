"""Questions that come together and are sent together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence, Sized
from typing import Generic, TypeVar

from ..errors import StoreError

__all__ = ["Batcher"]

Q = TypeVar("Q", bound=Sized)
A = TypeVar("A")

LARGEST_BATCH = 128
"""How many questions share a round trip."""

LARGEST_MESSAGE = 8 * 1024 * 1024
"""Bytes after which a batch takes no more questions."""


class Batcher(Generic[Q, A]):
    """Sends what is asked while a round trip is under way together in the next one.

    An answer that is a StoreError is raised to who asked.
    """

    def __init__(self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A | StoreError]]]) -> None:
        self._task: asyncio.Task[None] | None = None
        self._send = send
        self._asked: deque[tuple[Q, asyncio.Future[A]]] = deque()

    def tasks(self) -> set[asyncio.Task[None]]:
        """Return what is under way."""
        return set() if self._task is None else {self._task}

    def ask(self, question: Q) -> asyncio.Future[A]:
        """Return the answer that will come; a question may be left out once that is cancelled."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((question, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="asana-webhooks store")
        return future

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._exchange(*zip(*batch, strict=True))
        finally:
            self._task = None

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        size = 0
        while self._asked and len(batch) < LARGEST_BATCH and size < LARGEST_MESSAGE:
            question, future = self._asked.popleft()
            if not future.done():
                batch.append((question, future))
                size += len(question)
        return batch

    async def _exchange(self, questions: Sequence[Q], futures: Sequence[asyncio.Future[A]]) -> None:
        try:
            answers = await self._send(questions)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whoever asked
            # Those that wait fail too: a turn of their own would exceed the time of a call.
            for future in (*futures, *(future for _, future in self._asked)):
                if not future.done():
                    future.set_exception(_again(error))
            self._asked.clear()
        else:
            for future, answer in zip(futures, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, StoreError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


def _again(error: Exception) -> StoreError:
    """Return an error of one's own for each asker, since raising changes it."""
    msg = str(error) if isinstance(error, StoreError) else f"unexpected {type(error).__name__}"
    again = StoreError(msg)
    again.__cause__ = error
    return again
