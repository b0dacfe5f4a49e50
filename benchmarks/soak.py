"""Whether a receiver stays as it is: memory, descriptors and files over a long steady load.

::

    python benchmarks/soak.py [--minutes 20] [--store sqlite] [--rate N] [--json]

One client with this store receives and handles deliveries of one event, at a third of the rate that
it takes at most (which is measured first), or at ``--rate`` a second. Twenty times on the way it is
looked at: how much memory it has, how many descriptors, and what its files hold. Each look is after
a slice of the load whose connections are closed.

How to read it: memory and descriptors are to be as large at the end as in the middle. The files of
a store grow by what is known of a delivery for 48 hours, its digest and its event's key, some 100
bytes, and the log of SQLite keeps the size that it needed once. The memory store keeps the same
in memory, and so grows.

The exit status is 1 when a delivery was lost or handled twice, or when memory or descriptors grew
by more than a tenth between the second half's begin and its end (but for the memory store); 130
when it was interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _pace
from _lab import (
    LOAD_CORE,
    STORE_CORE,
    BrokenError,
    exit_status,
    note,
    percentile,
    pinned,
    table,
)
from _rounds import CONNECTIONS, Lab, Series, check_handled
from _stores import NEEDS, Stores

LOOKS = 20
SLICE = 3.0  # seconds of load whose requests are made beforehand
CLOSED_BY = 0.5  # seconds in which the server has closed the connections of a slice
GROWTH = 1.1
SLACK = 4  # descriptors


class Look(NamedTuple):
    """The state of the server after so many seconds and deliveries; sizes are in bytes."""

    seconds: float
    deliveries: int
    memory: int
    descriptors: int
    files: int
    p99_ms: float


def soak(lab: Lab, folder: Path, options: argparse.Namespace) -> list[Look]:
    """Load the server slice by slice; return what was seen after each. Raises BrokenError."""
    rate = options.rate or top_rate(lab, options.store) // 3
    slices = max(1, round(60 * options.minutes / LOOKS / SLICE))
    looks, sent, latencies = [], 0, list[float]()
    with lab.serve(options.store) as server:
        began = time.monotonic()
        for number in range(LOOKS * slices):
            requests = lab.requests(int(rate * SLICE))
            with pinned(LOAD_CORE):
                latencies += asyncio.run(
                    _pace.measure(
                        server.ready["port"],
                        requests,
                        rate=rate,
                        connections=CONNECTIONS,
                        warm_up=0,
                    )
                )
            sent += len(requests)
            if (number + 1) % slices == 0:
                time.sleep(CLOSED_BY)
                looks.append(
                    Look(
                        time.monotonic() - began,
                        sent,
                        server.memory(),
                        server.descriptors(),
                        sum(file.stat().st_size for file in folder.glob("store.db*")),
                        1e3 * percentile(latencies, 0.99),
                    )
                )
                latencies.clear()
                note(f"{looks[-1].seconds:.0f} s: {sent:,} deliveries")
        check_handled(Series(options.store, 1), sent, server.stop())
    return looks


def top_rate(lab: Lab, store: str) -> int:
    """Return how many deliveries a second the server takes at most."""
    series = Series(store, 1)
    lab.round(series)
    note(f"it takes {series.rates[0]:,.0f} a second")
    return int(series.rates[0])


def check_flat(looks: Sequence[Look], store: str) -> None:
    """Raise BrokenError when memory or descriptors grew in the second half."""
    middle, last = looks[len(looks) // 2], looks[-1]
    grew = last.memory > GROWTH * middle.memory and store != "memory"
    if grew or last.descriptors > middle.descriptors + SLACK:
        msg = f"it grew: {middle} in the middle, {last} at the end"
        raise BrokenError(msg)


def print_looks(looks: Sequence[Look]) -> None:
    """Print a line for each look."""
    head = ("after", "deliveries", "memory", "descriptors", "files", "p99")
    rows = [
        (
            f"{look.seconds:.0f} s",
            f"{look.deliveries:,}",
            f"{look.memory / 2**20:.1f} MiB",
            str(look.descriptors),
            f"{look.files / 2**20:.1f} MiB",
            f"{look.p99_ms:.2f} ms",
        )
        for look in looks
    ]
    print(table(head, rows))


def run(options: argparse.Namespace) -> None:
    """Measure and report. Raises BrokenError."""
    with (
        tempfile.TemporaryDirectory() as name,
        Stores(Path(name), core=STORE_CORE) as stores,
    ):
        looks = soak(Lab(Path(name), stores, 3.0), Path(name), options)
    if options.json:
        shown: list[dict[str, Any]] = [look._asdict() for look in looks]
        print(json.dumps(shown, indent=2))
    else:
        print_looks(looks)
    check_flat(looks, options.store)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="Memory, descriptors and files under a load.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--store", choices=[*NEEDS], default="sqlite")
    parser.add_argument("--rate", type=int, help="deliveries a second")
    parser.add_argument("--json", action="store_true", help="instead of a table")
    options = parser.parse_args()
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
