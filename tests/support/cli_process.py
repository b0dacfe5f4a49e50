"""The command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TERMINAL = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def environment(**variables: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name not in TERMINAL}
    return mine | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | variables


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=40,
        check=False,
    )
