"""``asana-webhooks simulate`` as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class Simulated:
    """A process whose first line on standard output was ``base_url``."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self.process = process
        self.base_url = base_url
        self.origin = base_url.removesuffix("/api/1.0")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Tell it to stop; return its exit status and what else it wrote."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextlib.contextmanager
def simulated(*arguments: str, log: Path | None = None) -> Iterator[Simulated]:
    """Run the command; its standard error goes to the log, or is kept for ``end``."""
    with contextlib.ExitStack() as stack:
        err = stack.enter_context(log.open("w")) if log else subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "asana_webhooks", "simulate", *arguments],
                stdout=subprocess.PIPE,
                stderr=err,
                encoding="utf-8",
                env={**os.environ, "PYTHONUTF8": "1"},
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        yield Simulated(process, process.stdout.readline().rstrip("\n"))
