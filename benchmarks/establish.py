"""The time to establish a webhook, and the calls a second that Asana's API gets.

::

    pip install -e . uvloop asana
    python benchmarks/establish.py [--seconds 3] [--rounds 5] [--count 150] [--json]

Everything is against the local Asana (``asana_webhooks.simulator``), a process on one core; the
caller is a process on another. In each round every caller is started anew, one after the other, so
that all see the same moods of the machine.

The first table shows calls of ``get_webhook``, 1 and 15 at a time: ``WebhooksApi`` in tasks beside
the official ``asana`` package in as many threads, which keeps a connection for each. Shown are
medians of the rounds, the ratio to the official package, and the processor time that a call costs
the caller, which other programs on the machine change much less than the rates. The local Asana
must not be what they wait for: the facts say how much of its core it used at most, and near 100 %
the ratio of the faster one is understated.

The second shows how long one establishment takes, alone and 15 at a time: ``client.establish()``
beside the create call alone with a handshake by the same libraries (httpx over aiohttp, a handler
on aiohttp that echoes and keeps the secret in a dict). Shown are medians of all establishments of
the rounds. Establishing writes to the store three times, so with SQLite it waits for the disk
below the directory for temporary files three times; the facts say how long an ``fsync`` takes.
Beside an Asana that takes its time all of this is small; here it is as large as it can be.

The exit status is 1 when a call failed, 130 when it was interrupted. Figures do not change it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _lab import (
    LOAD_CORE,
    SERVER_CORE,
    Child,
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

AT_ONCE = (1, 15)
CALLERS = {"official": "asana package", "ours": "WebhooksApi"}
ESTABLISHERS = {
    "bare": "create call alone",
    "memory": "establish(), memory store",
    "sqlite": "establish(), SQLite store",
}
DISTRIBUTIONS = ("asana-webhooks", "aiohttp", "httpx", "httpx-aiohttp", "uvloop", "asana")

Key = tuple[str, int]
Run = Callable[[Child, str, int], dict[str, Any]]


class Lab:
    """Runs callers against a local Asana that is new each time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.busiest = 0.0
        self._options = options

    def rounds(self, names: Sequence[str], run: Run) -> dict[Key, list[dict[str, Any]]]:
        """Return what each caller printed in each round, 1 and 15 at a time."""
        keys = [(name, at_once) for at_once in AT_ONCE for name in names]
        results: dict[Key, list[dict[str, Any]]] = {key: [] for key in keys}
        for number in range(self._options.rounds):
            for name, at_once in keys:
                with Child("_asana.py", core=SERVER_CORE) as asana:
                    results[name, at_once].append(run(asana, name, at_once))
                note(f"round {number + 1}: {name}, {at_once} at a time")
        return results

    def call(self, asana: Child, name: str, at_once: int) -> dict[str, Any]:
        """Have a caller get a webhook again and again."""
        options = "--at-once", at_once, "--seconds", self._options.seconds
        where = asana.ready["base_url"], asana.ready["webhook"]
        with Child("_callers.py", name, *where, *options, core=LOAD_CORE) as caller:
            before, started = asana.cpu_seconds(), time.monotonic()
            result = caller.read()
            used = (asana.cpu_seconds() - before) / (time.monotonic() - started)
        self.busiest = max(self.busiest, used)
        return result

    def establish(self, asana: Child, name: str, at_once: int) -> dict[str, Any]:
        """Have a caller establish webhooks."""
        options = "--at-once", at_once, "--count", max(1, self._options.count // at_once)
        where = asana.ready["base_url"], asana.ready["project"]
        with Child("_callers.py", name, *where, *options, core=LOAD_CORE) as caller:
            return caller.read()


def summarise_calls(results: dict[Key, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the median rates, and their ratio to the first caller's."""
    rates = {
        key: [result["calls"] / result["seconds"] for result in rounds]
        for key, rounds in results.items()
    }
    first = next(iter(CALLERS))
    return [
        {
            "caller": name,
            "at_once": at_once,
            "per_second": median(of_caller),
            "ratio": median(of_caller) / median(rates[first, at_once])
            if (first, at_once) in rates
            else None,
            "rounds": of_caller,
            "cpu": median(result["cpu"] / result["calls"] for result in results[name, at_once]),
        }
        for (name, at_once), of_caller in rates.items()
    ]


def summarise_times(results: dict[Key, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the times in milliseconds, and their ratio to the create call alone."""
    times = {
        key: [1e3 * seconds for result in rounds for seconds in result["times"]]
        for key, rounds in results.items()
    }
    return [
        {
            "caller": name,
            "at_once": at_once,
            "median_ms": median(of_caller),
            "ratio": median(of_caller) / median(times["bare", at_once]),
            "p99_ms": percentile(of_caller, 0.99),
            "count": len(of_caller),
        }
        for (name, at_once), of_caller in times.items()
    ]


def print_calls(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of calls."""
    head = ("get_webhook", "at a time", "calls a second", "ratio", "rounds", "CPU")
    print("\n" + table(head, map(_call_row, rows)))


def _call_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        CALLERS[row["caller"]],
        str(row["at_once"]),
        f"{row['per_second']:,.0f}",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        f"{min(row['rounds']):,.0f} to {max(row['rounds']):,.0f}",
        f"{1e6 * row['cpu']:.0f} µs" if row["cpu"] else "",
    )


def print_times(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of establishments."""
    head = ("establishing", "at a time", "median", "ratio", "p99")
    print("\n" + table(head, map(_time_row, rows)))


def _time_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        ESTABLISHERS[row["caller"]],
        str(row["at_once"]),
        f"{row['median_ms']:.2f} ms",
        f"{row['ratio']:.2f}",
        f"{row['p99_ms']:.2f} ms",
    )


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Establishing and calling, beside others.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of calls in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=150, help="of establishments in a round")
    parser.add_argument("--json", action="store_true", help="instead of tables")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1 or options.count < 1:
        parser.error("--seconds, --rounds and --count must be positive")
    return options


def callers() -> list[str]:
    """Return the callers whose packages are installed."""
    if has("asana"):
        return list(CALLERS)
    note("the official package is left out: install asana")
    return ["ours"]


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    lab = Lab(options)
    with tempfile.TemporaryDirectory() as folder:
        fsync = fsync_seconds(Path(folder))
    found = facts(*DISTRIBUTIONS) | {"fsync": f"{1e3 * fsync:.2f} ms"}
    calls = summarise_calls(lab.rounds(callers(), lab.call))
    times = summarise_times(lab.rounds(list(ESTABLISHERS), lab.establish))
    found["Asana"] = f"the local one used at most {lab.busiest:.0%} of its core for calls"
    if options.json:
        print(json.dumps({"machine": found, "calls": calls, "establish": times}, indent=2))
        return
    print_facts(found)
    print_calls(calls)
    print_times(times)


def main() -> int:
    """Return the exit status."""
    options = arguments()
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
