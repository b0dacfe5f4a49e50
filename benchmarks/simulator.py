"""The local Asana: how long it takes to start, to be seeded, and to show a task.

Run: python benchmarks/simulator.py

All are of processor time: of a process that starts one and ends, else with the client that asks it.
To reach: start within 0.5 s, 2,000 tasks within 1 s, a task shown within 1 ms.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time

import aiohttp

from asana_webhooks.simulator import AsanaSimulator

TASKS, CALLS = 2_000, 2_000
START = "import asyncio; from asana_webhooks.simulator import AsanaSimulator as A\n" + (
    "async def main():\n    async with A(): pass\nasyncio.run(main())"
)


def start() -> float:
    """Return the seconds that a process takes in which a local Asana starts and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", START], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


async def measure() -> tuple[float, float]:
    """Return the seconds for seeding, and for one GET of a task."""
    tasks = [{"name": f"Task {number}"} for number in range(TASKS)]
    async with AsanaSimulator() as asana:
        began = time.process_time()
        await asana.seed({"projects": [{"name": "Many", "tasks": tasks}]})
        seeded = time.process_time() - began
        headers = {"Authorization": "Bearer any"}
        async with aiohttp.ClientSession(headers=headers) as http:
            began = time.process_time()
            for _ in range(CALLS):
                async with http.get(f"{asana.base_url}/tasks/1301") as response:
                    await response.read()
            shown = (time.process_time() - began) / CALLS
    return seeded, shown


def main() -> None:
    """Print the figures."""
    started = min(start() for _ in range(3))
    seeded, shown = asyncio.run(measure())
    print(f"start           {started:.2f} s")
    print(f"{TASKS} tasks      {seeded:.2f} s")
    print(f"GET of a task   {shown * 1000:.2f} ms, with the client's part")


if __name__ == "__main__":
    main()
