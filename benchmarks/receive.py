"""How many deliveries a second are received, and how soon each is answered.

::

    pip install -e . uvloop fastapi "uvicorn[standard]" flask gunicorn
    apt-get install wrk
    python benchmarks/receive.py [--seconds 3] [--rounds 5] [--events 1,10,100] [--only NAME,…]

Compared are the stand-alone receiver of ``WebhooksClient``, with everything that it does (look-up,
signature, store, answer, handler through ``run()``), and servers that keep nothing:

==================  =============================================================================
bare                (a), the measure: a handler on aiohttp that reads the body and answers 200
memory              the client with the memory store
sqlite              the client with the SQLite store: on the disk before it is answered
fastapi             FastAPI on uvicorn: checks the signature, parses the body, keeps nothing
flask               the same with Flask on gunicorn, one synchronous worker
…-uvloop            ``bare``, ``memory`` and ``sqlite`` on uvloop
latency             no server, but the last table, see below
==================  =============================================================================

Each server is a process on one core, the load (``wrk``, 64 connections kept alive) has another.
Every delivery is sent once and signed beforehand: a repeated one would be answered from the check
for duplicates. In each round every server is started anew and loaded for some seconds, one after
the other, so that all see the same moods of the machine; shown are the medians of the rounds.

How to read it: ``of (a)`` is the ratio to ``bare`` in this run, and the only figure to compare
between machines. ``CPU`` is the processor time that a delivery costs the server, which other
programs on the machine change much less than the rates. ``behind`` is how long after the last
delivery of the load the last event was handled: near 0, the handlers keep up with what is
answered; growing with ``--seconds``, they do not. The SQLite rows depend on the disk: the facts
say how long an ``fsync`` takes below the directory for temporary files (set TMPDIR for another
one; on a tmpfs it costs nothing).

The last table is the latency at a fixed rate of 1,000 deliveries a second with one event, each
measured from the time at which it was due: median of the rounds, and the longest of all.

The exit status is 1 when something broke: an answer other than 200, or a delivery that was
answered and not handled, or handled twice. It is 2 when wrk is missing or an argument is wrong.
Figures do not change it. A server whose packages are not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _lab import (
    BrokenError,
    facts,
    fsync_seconds,
    has,
    median,
    note,
    percentile,
    print_facts,
    table,
)
from _rounds import RATE, Lab, Series

TITLES = {
    "bare": "bare aiohttp (a)",
    "bare-uvloop": "bare aiohttp, uvloop",
    "memory": "memory store",
    "memory-uvloop": "memory store, uvloop",
    "sqlite": "SQLite store",
    "sqlite-uvloop": "SQLite store, uvloop",
    "fastapi": "FastAPI",
    "flask": "Flask on gunicorn, sync",
}
NEEDS = {"fastapi": ("fastapi", "uvicorn"), "flask": ("flask", "gunicorn")}
LATENCY_OF = ("bare", "sqlite", "sqlite-uvloop")
DISTRIBUTIONS = (
    *("asana-webhooks", "aiohttp", "msgspec", "uvloop"),
    *("fastapi", "uvicorn", "httptools", "flask", "gunicorn"),
)


def measure_rates(lab: Lab, names: Sequence[str], options: argparse.Namespace) -> list[Series]:
    """Return the series of these servers, for each size of deliveries."""
    whole = []
    for events in options.events:
        of_size = [Series(name, events) for name in names]
        for number in range(options.rounds):
            for series in of_size:
                lab.round(series)
                note(
                    f"{events} events, round {number + 1}: {series.server}"
                    f" {series.rates[-1]:,.0f}/s"
                )
        whole += of_size
    return whole


def measure_latencies(
    lab: Lab, names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """Return the latencies of these servers, round by round."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            rounds[name].append(lab.latencies(name))
            note(f"latency, round {number + 1}: {name}")
    return rounds


def summary(series: Series, bare: Series) -> dict[str, Any]:
    """Return what is reported of one series."""
    return {
        "server": series.server,
        "events": series.events,
        "per_second": median(series.rates),
        "ratio": median(series.rates) / median(bare.rates),
        "rounds": series.rates,
        "behind": median(series.behind),
        "cpu": median(series.cpu),
    }


def summarise(whole: Sequence[Series]) -> list[dict[str, Any]]:
    """Return what is reported of all series, each beside (a) with the same deliveries."""
    bare = {series.events: series for series in whole if series.server == "bare"}
    return [summary(series, bare[series.events]) for series in whole]


def summarise_latencies(rounds: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Return p50, p99 and the longest, in milliseconds."""
    return [
        {
            "server": name,
            "per_second": RATE,
            "p50_ms": 1e3 * median(percentile(values, 0.5) for values in of_server),
            "p99_ms": 1e3 * median(percentile(values, 0.99) for values in of_server),
            "max_ms": 1e3 * max(map(max, of_server)),
        }
        for name, of_server in rounds.items()
    ]


def print_rates(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table for each size of deliveries."""
    for events in dict.fromkeys(row["events"] for row in rows):
        head = (
            f"{events} event{'s' * (events > 1)}",
            "a second",
            "of (a)",
            "rounds",
            "CPU",
            "behind",
        )
        of_size = [row for row in rows if row["events"] == events]
        print("\n" + table(head, map(_rate_row, of_size)))


def _rate_row(row: dict[str, Any]) -> tuple[str, ...]:
    lowest, highest = min(row["rounds"]), max(row["rounds"])
    return (
        title(row["server"]),
        f"{row['per_second']:,.0f}",
        f"{row['ratio']:.2f}",
        f"{lowest:,.0f} to {highest:,.0f}",
        f"{1e6 * row['cpu']:.0f} µs" if row["cpu"] else "",
        f"{row['behind']:.2f} s" if row["server"].startswith(("memory", "sqlite")) else "",
    )


def print_latencies(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of latencies."""
    head = (f"latency at {RATE:,} a second", "p50", "p99", "longest")
    figures = ("p50_ms", "p99_ms", "max_ms")
    lines = [(title(row["server"]), *(f"{row[name]:.2f} ms" for name in figures)) for row in rows]
    print("\n" + table(head, lines))


def title(name: str) -> str:
    """Return what a server is called in tables."""
    if name != "fastapi":
        return TITLES[name]
    loop = "uvloop" if has("uvloop") else "asyncio"
    return f"FastAPI on uvicorn ({loop}, {'httptools' if has('httptools') else 'h11'})"


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Deliveries received a second, beside others.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=_numbers, default=[1, 10, 100], help="in a delivery")
    parser.add_argument(
        "--only", type=_names, default=[*TITLES, "latency"], help=", ".join([*TITLES, "latency"])
    )
    parser.add_argument("--json", action="store_true", help="instead of tables")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds and --rounds must be positive")
    return options


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name != "latency" and name not in TITLES:
            msg = f"{name!r} is none of {', '.join([*TITLES, 'latency'])}"
            raise argparse.ArgumentTypeError(msg)
    return names


def chosen(only: Sequence[str]) -> list[str]:
    """Return the servers to run, in the order of the tables; (a) is always among them."""
    names = []
    for name in TITLES:
        needs = NEEDS.get(name, ("uvloop",) if name.endswith("-uvloop") else ())
        if name != "bare" and name not in only:
            continue
        if has(*needs):
            names.append(name)
        else:
            note(f"{name} is left out: install {' and '.join(needs)}")
    return names


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure and report."""
    names = chosen(options.only)
    servers = [name for name in names if name in options.only]
    found = facts(*DISTRIBUTIONS) | {"fsync": f"{1e3 * fsync_seconds(folder):.2f} ms"}
    lab = Lab(folder, options.seconds)
    rates = summarise(measure_rates(lab, names, options) if servers else [])
    measured = [name for name in LATENCY_OF if "latency" in options.only and has_loop(name)]
    latencies = summarise_latencies(measure_latencies(lab, measured, options))
    if rates:
        found["load"] = f"wrk used at most {lab.busiest:.0%} of its core"
    if options.json:
        print(json.dumps({"machine": found, "receive": rates, "latency": latencies}, indent=2))
        return
    print_facts(found)
    print_rates(rates)
    if latencies:
        print_latencies(latencies)


def has_loop(name: str) -> bool:
    """Return whether the event loop that a server runs on is installed."""
    return not name.endswith("-uvloop") or has("uvloop")


def main() -> int:
    """Return the exit status."""
    options = arguments()
    if shutil.which("wrk") is None:
        note("wrk is missing: install it with apt-get install wrk, brew install wrk, or the like")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(options, Path(folder))
        except BrokenError as error:
            note(f"broken: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
