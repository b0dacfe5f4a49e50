"""All tables in one run, and the README's, so that no figure in it comes from another run.

::

    python benchmarks/all.py [--quick] [--json]

It runs ``receive.py``, ``drain.py`` and ``establish.py`` one after the other, whose own texts say
what is compared and how to read it, and what to install. What is not installed is left out. It
takes half an hour; with ``--quick`` less than three minutes, of one short round each: to see that
all works, and whether something became much slower.

The table of the README between ``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->`` is
written anew. The exit status is that of the first that broke, else 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import drain
import establish
import receive
from _lab import FOLDER, note, print_facts

README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

SHOWN = (
    *("memory", "memory-uvloop", "sqlite", "sqlite-uvloop", "valkey", "postgres"),
    *("bare-uvloop", "asgi", "starlette", "fastapi", "flask"),
)
"""The servers of the README's table."""

QUICK = {
    "receive": (
        *("--rounds", "1", "--seconds", "0.7", "--events", "1,100", "--rates", "1000"),
        *("--only", ",".join([*SHOWN, "latency"])),
    ),
    "drain": ("--quick",),
    "establish": ("--rounds", "1", "--seconds", "1", "--count", "30"),
}


class FailedError(Exception):
    """A benchmark that ended with a status other than 0."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


def measure(name: str, *, quick: bool) -> dict[str, Any]:
    """Return what this benchmark reports. Raises FailedError."""
    note(f"{name}.py")
    options = QUICK[name] if quick else ()
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise FailedError(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    """Print what the benchmarks print by themselves."""
    for name, result in results.items():
        print(f"\n{name}.py\n")
        print_facts(result["machine"])
        if name == "receive":
            receive.print_rates(result["receive"])
            receive.print_latencies(result["latency"])
        elif name == "drain":
            drain.print_rates(result["drain"])
            drain.print_claims(result["claims"])
        else:
            establish.print_calls(result["calls"])
            establish.print_times(result["establish"])


def readme_section(result: dict[str, Any]) -> str:
    """Return the ratios to bare aiohttp of one run as a table in Markdown, with what they mean."""
    rows, machine = result["receive"], result["machine"]
    sizes = list(dict.fromkeys(row["events"] for row in rows))
    ratios = {(row["server"], row["events"]): row["ratio"] for row in rows}
    bare = next(row for row in rows if row["server"] == "bare")
    lines = [
        f"One run: {machine['processor']}, Python {machine['Python']}, `fsync` {machine['fsync']};"
        f" bare aiohttp took {bare['per_second']:,.0f} a second with one event.",
        "",
        "| | " + " | ".join(f"{events} event{'s' * (events > 1)}" for events in sizes) + " |",
        "|---|" + "--:|" * len(sizes),
    ]
    for name in SHOWN:
        if (name, sizes[0]) in ratios:
            figures = " | ".join(f"{ratios[name, events]:.2f}" for events in sizes)
            lines.append(f"| {receive.title(name)} | {figures} |")
    return "\n".join(lines)


def write_readme(section: str, path: Path = README) -> None:
    """Put the section between the marks."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{begin}\n{section}\n{end}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="All benchmarks, and the README's table.")
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--json", action="store_true", help="instead of tables")
    options = parser.parse_args(arguments)
    try:
        results = {name: measure(name, quick=options.quick) for name in QUICK}
    except FailedError as error:
        return error.status
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print_tables(results)
    write_readme(readme_section(results["receive"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
