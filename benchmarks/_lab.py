"""Shared by the benchmarks: children on a core of their own, medians, tables, the machine's facts.

A child is a program that prints JSON, one object a line: one when it is ready, and one with its
results when it is told to end (SIGTERM) or is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SERVER_CORE = CORES[0] if CORES else None
LOAD_CORE = CORES[-1] if CORES else None
STORE_CORE = CORES[1] if len(CORES) > 2 else LOAD_CORE
PACED_STORE_CORE = CORES[1] if len(CORES) > 2 else SERVER_CORE  # beside a load that never sleeps

FOLDER = Path(__file__).parent
CHILD_TIMEOUT = 90.0


class BrokenError(Exception):
    """A run whose figures mean nothing: a delivery was lost, a call failed, a child died."""


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this thread, and the children that it starts, on one core; None: on any."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """A program of this folder as a child process on one core; ``ready`` is its first line."""

    def __init__(self, program: str, *arguments: object, core: int | None) -> None:
        command = [sys.executable, str(FOLDER / program), *map(str, arguments)]
        self.name = " ".join([program, *command[2:3]])
        with pinned(core):
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, start_new_session=True
            )  # a session of its own: Ctrl-C is for the parent, which then ends its children
        self._told = False
        self.ready: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.ready = self.read()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def read(self) -> dict[str, Any]:
        """Return the next object that the child prints."""
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            msg = f"{self.name} ended with status {self._process.wait(CHILD_TIMEOUT)}"
            raise BrokenError(msg)
        result: dict[str, Any] = json.loads(line)
        return result

    def stop(self) -> dict[str, Any]:
        """Tell the child to end, and return what it prints then."""
        self._tell()
        return self.read()

    def ended(self) -> bool:
        """Return whether the child has ended."""
        return self._process.poll() is not None

    def cpu_seconds(self) -> float:
        """Return how long the child and its own children have computed; 0 if nobody tells."""
        try:
            own = Path(f"/proc/{self._process.pid}")
            others = (own / "task" / own.name / "children").read_text().split()
            return sum(_cpu_seconds(process) for process in (own.name, *others))
        except OSError:
            return 0.0

    def memory(self) -> int:
        """Return how many bytes of memory the child has; 0 if nobody tells."""
        with contextlib.suppress(OSError):
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def descriptors(self) -> int:
        """Return how many descriptors the child has open; 0 if nobody tells."""
        with contextlib.suppress(OSError):
            return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))
        return 0

    def _tell(self) -> None:
        if not self._told:  # a second signal would hit it while it closes its loop
            self._told = True
            self._process.terminate()

    def _end(self) -> None:
        self._tell()
        try:
            self._process.wait(CHILD_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if self._process.stdout:
            self._process.stdout.close()


def _cpu_seconds(process: str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exit_status(run: Callable[[], None]) -> int:
    """Return 0, 1 when a run broke, 130 when it was interrupted: SIGTERM does it like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except BrokenError as error:
        note(f"broken: {error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    return 0


def say(**result: Any) -> None:
    """Print one object for the parent to read."""
    print(json.dumps(result), flush=True)


def told_to_end() -> asyncio.Event:
    """Return what is set when the parent wants no more."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    return event


def has(*modules: str) -> bool:
    """Return whether all of these can be imported."""
    return all(importlib.util.find_spec(module) for module in modules)


def note(text: str) -> None:
    """Tell how far the benchmark is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` of all, 0 to 1, do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as text, the first column to the left and the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def facts(*distributions: str) -> dict[str, str]:
    """Return what figures depend on: machine, Python, versions of these distributions."""
    found = {
        "processor": f"{_processor()}, {len(CORES) or os.cpu_count()} cores",
        "cores": _split(),
        "Python": f"{platform.python_version()}, {platform.system()} {platform.release()}",
        "SQLite": sqlite3.sqlite_version,
        "others": f"a load average of {os.getloadavg()[0]:.1f} when it began",
    }
    versions = [f"{name} {version}" for name in distributions if (version := _version(name))]
    return found | {"versions": ", ".join(versions)}


def fsync_seconds(folder: Path) -> float:
    """Return the median time in which the disk below a folder makes 4 KiB durable."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times)


def print_facts(found: dict[str, str]) -> None:
    """Print the machine's facts."""
    for name, value in found.items():
        print(f"{name + ':':12}{value}")


def _split() -> str:
    if SERVER_CORE is None:
        return "not pinned: this system has no sched_setaffinity"
    if SERVER_CORE == LOAD_CORE:
        return f"server and load share core {SERVER_CORE}: the ratios mean little"
    return f"server on {SERVER_CORE}, load on {LOAD_CORE}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
