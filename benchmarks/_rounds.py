"""The rounds of ``receive.py``: a server is started, loaded, ended, and asked what it handled."""

from __future__ import annotations

import asyncio
import json
import math
import resource
import secrets
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _pace
from _deliveries import FIRST_SERIAL, Deliveries
from _lab import FOLDER, LOAD_CORE, SERVER_CORE, BrokenError, Child, pinned
from _stores import Stores

CONNECTIONS = 64
WARM_UP = 0.25  # seconds of load before the measured ones
WIND_DOWN = 0.5  # seconds after them, in which what was sent is answered
FIRST_GUESS = 50_000  # deliveries a second: tables are made for so many, or for what was seen


@dataclass
class Load:
    """The work of wrk: how many deliveries it sent, how many of them in the measured time."""

    sent: int
    measured: int
    probes: int
    ended: float
    exhausted: bool
    answered: int
    refused: int
    failed: int
    cpu: float = 0.0
    server_cpu: float = 0.0

    def check(self, server: str) -> None:
        """Raise BrokenError unless every delivery was answered 200."""
        missing = self.sent + self.probes - self.answered
        if self.refused or self.failed or missing > CONNECTIONS:
            msg = (
                f"{server}: {self.refused} answers were not 200, {self.failed} connections failed,"
                f" {missing} answers are missing"
            )
            raise BrokenError(msg)


@dataclass
class Series:
    """The rounds of one server with one size of deliveries."""

    server: str
    events: int
    rates: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class Lab:
    """Starts servers and loads them; no delivery is ever sent twice."""

    def __init__(self, folder: Path, stores: Stores, seconds: float) -> None:
        self.busiest = 0.0
        self._folder = folder
        self._stores = stores
        self._seconds = seconds
        self._route = secrets.token_hex(16)
        self._secret = secrets.token_hex(32)
        self._serial = FIRST_SERIAL
        self._seen: dict[tuple[str, int], float] = {}

    def round(self, series: Series) -> None:
        """Measure once more how many deliveries a server receives in a second."""
        expected = self._seen.get((series.server, series.events), FIRST_GUESS)
        deliveries = self._deliveries(series.events)
        deliveries.write(self._folder, int(expected * (self._seconds + WARM_UP)))
        self._serial = deliveries.serial
        with self.serve(series.server) as server:
            load = self._load(server)
            result = server.stop()
        load.check(series.server)
        check_handled(series, load.sent, result)
        rate = load.measured / self._seconds
        self._seen[series.server, series.events] = max(expected if load.exhausted else 0, rate) * 2
        if load.exhausted:
            self.round(series)  # with a larger table
            return
        self.busiest = max(self.busiest, load.cpu)
        series.rates.append(rate)
        series.behind.append(max(0.0, result["last"] - load.ended))
        series.cpu.append(load.server_cpu / load.sent)

    def latencies(self, name: str, rate: int) -> list[float]:
        """Return the latencies of deliveries that come at a fixed rate, in seconds."""
        warm_up = rate // 2
        requests = self.requests(warm_up + max(1, int(rate * self._seconds)))
        with self.serve(name) as server:
            with pinned(LOAD_CORE):
                latencies = asyncio.run(
                    _pace.measure(
                        server.ready["port"],
                        requests,
                        rate=rate,
                        connections=CONNECTIONS,
                        warm_up=warm_up,
                    )
                )
            check_handled(Series(name, 1), len(requests), server.stop())
        return latencies

    def requests(self, count: int) -> list[bytes]:
        """Return so many deliveries of one event, as requests, that nobody has sent yet."""
        deliveries = self._deliveries(1)
        requests = deliveries.requests(count)
        self._serial = deliveries.serial
        return requests

    def _deliveries(self, events: int) -> Deliveries:
        return Deliveries(self._route, self._secret, events=events, serial=self._serial)

    def serve(self, name: str) -> Child:
        """Return the server with this name, to be entered, on an empty store."""
        place = self._stores.fresh(name.partition("-")[0])
        return Child("_servers.py", name, self._route, self._secret, place, core=SERVER_CORE)

    def _load(self, server: Child) -> Load:
        lasts = WARM_UP + self._seconds
        command = [
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--timeout", "10s"),
            *("--duration", f"{math.ceil(lasts + WIND_DOWN)}s"),
            *("--script", str(FOLDER / "_wrk.lua"), f"http://127.0.0.1:{server.ready['port']}/"),
            *("--", str(self._folder), str(WARM_UP), str(self._seconds)),
        ]
        before, started, used = _cpu_of_children(), time.monotonic(), server.cpu_seconds()
        with pinned(LOAD_CORE), subprocess.Popen(command, stdout=subprocess.PIPE) as wrk:
            time.sleep(lasts)
            used = server.cpu_seconds() - used
            output = wrk.communicate()[0]
        if wrk.returncode:
            msg = f"wrk ended with status {wrk.returncode}: {output.decode().strip()}"
            raise BrokenError(msg)
        load = Load(**json.loads(output.splitlines()[-1]), server_cpu=used)
        load.cpu = (_cpu_of_children() - before) / (time.monotonic() - started)
        return load


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_handled(series: Series, answered: int, result: dict[str, Any]) -> None:
    """Raise BrokenError when other deliveries were handled than those that were answered."""
    handled, events = result["handled"], result["events"]
    if handled != answered or events not in (None, answered * series.events):
        msg = (
            f"{series.server}: {answered} deliveries with {series.events} events each were"
            f" answered 200, {handled} of them were handled, in {events} events"
        )
        raise BrokenError(msg)
