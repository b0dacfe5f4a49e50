"""The rounds of ``drain.py``: a store is filled, workers drain it, and what they did is checked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _inbox
import _others
from _board import Board
from _lab import BrokenError, Child, note
from _stores import NEEDS as STORES
from _stores import Stores, open_store

BESIDE = {"sqlite": "huey", "valkey": "saq", "postgres": "procrastinate"}
"""The job queue that each store is compared with, on a store of that kind."""

KINDS = {name: name for name in STORES} | {other: store for store, other in BESIDE.items()}
CLAIMED_WEBHOOKS = 10  # so few that each has a whole batch waiting at the lowest level
LOWEST_LEVEL = CLAIMED_WEBHOOKS * _inbox.BATCH
SAMPLES = 300
STALLED = 60.0  # seconds without progress after which a round is given up


class Lab:
    """Fills stores, and lets workers drain them."""

    def __init__(self, folder: Path, stores: Stores, *, count: int, webhooks: int) -> None:
        self._folder = folder
        self._stores = stores
        self._count = count
        self._webhooks = webhooks

    def round(self, name: str, workers: int) -> float:
        """Return how many deliveries these workers handle in a second."""
        count = self._count if name in STORES else max(1, self._count // 10)
        place = self._fill(name, count)
        board = Board.make(self._folder / "board")
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(self._worker(name, place, number, count))
                for number in range(workers)
            ]
            started = time.monotonic()
            board.begin()
            _wait(board, children, count)
            results = [child.stop() for child in children]
        self._check(name, place, count, sum(result["handled"] for result in results))
        return count / (max(result["last"] for result in results) - started)

    def claims(self, name: str, levels: Sequence[int]) -> list[dict[str, Any]]:
        """Return how long claims took at each level, in seconds."""
        place = self._stores.fresh(name)
        options = "--webhooks", CLAIMED_WEBHOOKS, "--count", SAMPLES, "--claims", *levels
        with Child("_workers.py", name, place, *options, core=None) as child:
            results = []
            for level in levels:
                results.append(child.read())
                note(f"claims from {level:,} deliveries: {name}")
        return results

    def _fill(self, name: str, count: int) -> str:
        place = self._stores.fresh(KINDS[name])
        if name == "huey":
            _others.fill_huey(place, count)
        elif name == "saq":
            asyncio.run(_others.fill_saq(place, count))
        elif name == "procrastinate":
            asyncio.run(_others.fill_procrastinate(place, count))
        elif name != "memory":  # which its worker fills
            asyncio.run(_fill_store(name, place, count, self._webhooks))
        self._stores.settle(KINDS[name])
        return place

    def _worker(self, name: str, place: str, number: int, count: int) -> Child:
        options = "--board", self._folder / "board", "--number", number
        filling = "--count", count, "--webhooks", self._webhooks
        return Child("_workers.py", name, place, *options, *filling, core=None)

    def _check(self, name: str, place: str, count: int, handled: int) -> None:
        waiting = 0
        if name in STORES and name != "memory":
            waiting = asyncio.run(_waiting(name, place))
        if handled < count or waiting or (name in STORES and handled != count):
            msg = f"{name}: of {count} deliveries {handled} were handled, and {waiting} still wait"
            raise BrokenError(msg)


async def _fill_store(name: str, place: str, count: int, webhooks: int) -> None:
    async with open_store(name, place, max_waiting=_inbox.MANY) as store:
        of_routes = _inbox.routes(webhooks)
        await _inbox.confirm(store, of_routes)
        await _inbox.fill(store, range(count), of_routes)


async def _waiting(name: str, place: str) -> int:
    async with open_store(name, place, max_waiting=_inbox.MANY) as store:
        return (await store.counts()).waiting


def _wait(board: Board, children: Sequence[Child], count: int) -> None:
    """Return when all were handled; raise BrokenError when that stops before the end."""
    handled, changed_at = 0, time.monotonic()
    while (now := board.handled()) < count:
        if now != handled:
            handled, changed_at = now, time.monotonic()
        if time.monotonic() - changed_at > STALLED or any(child.ended() for child in children):
            msg = f"{children[0].name}: {handled} of {count} were handled, and then no more"
            raise BrokenError(msg)
        time.sleep(0.005)
