"""One of the workers that ``drain.py`` compares, as a process of its own.

It prints a line when it is ready, begins when the board says so, and prints when it is told to end
how much it handled and when it was done with the last (in readings of the monotonic clock). Asked
for ``--claims`` it handles nothing, but prints how long claims take at each level.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import _inbox
import _others
from _board import Tally
from _lab import say
from _stores import open_store

OTHERS = {"saq": _others.drain_saq, "procrastinate": _others.drain_procrastinate}


async def drain_store(name: str, place: str, tally: Tally, options: argparse.Namespace) -> None:
    """Drain a store; the one in memory is filled here, where else."""
    async with open_store(name, place, max_waiting=_inbox.MANY) as store:
        if name == "memory":
            of_routes = _inbox.routes(options.webhooks)
            await _inbox.confirm(store, of_routes)
            await _inbox.fill(store, range(options.count), of_routes)
        say()
        await tally.begun()
        await _inbox.drain(store, tally)


async def measure_claims(name: str, place: str, options: argparse.Namespace) -> None:
    """Print how long claims take, level by level."""
    levels, webhooks, samples = options.claims, options.webhooks, options.count
    async with open_store(name, place, max_waiting=_inbox.MANY) as store:
        say()
        async for level, times in _inbox.claim_at(
            store, levels, webhooks=webhooks, samples=samples
        ):
            say(waiting=level, times=times)


def work(name: str, place: str, tally: Tally, options: argparse.Namespace) -> None:
    """Be the worker with this name until told to end."""
    if name == "huey":
        _others.drain_huey(place, tally)
    elif name in OTHERS:
        asyncio.run(OTHERS[name](place, tally))
    else:
        asyncio.run(drain_store(name, place, tally, options))
    say(handled=tally.mine(), last=tally.last)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("place")
    parser.add_argument("--board", type=Path)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--webhooks", type=int)
    parser.add_argument("--claims", type=int, nargs="+")
    options = parser.parse_args()
    if options.claims:
        asyncio.run(measure_claims(options.name, options.place, options))
    else:
        work(options.name, options.place, Tally(options.board, options.number), options)


if __name__ == "__main__":
    main()
