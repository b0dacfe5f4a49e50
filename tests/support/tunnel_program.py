"""A program on PATH that prints what a program of tunnels prints."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NGROK = [
    json.dumps({"lvl": "info", "msg": "open config file", "path": "/ngrok.yml", "t": "2026"}),
    json.dumps({"addr": "127.0.0.1:4040", "lvl": "info", "msg": "starting web service"}),
    '{"addr":"http://localhost:8080","lvl":"info","msg":"started tunnel","name":"command_line",'
    '"obj":"tunnels","t":"2026","url":"https://3f1c-2001-db8.ngrok-free.app"}',
]


PROGRAM = """#!{python}
import json, os, signal, sys, time
with open({trace!r} + ".new", "w") as trace:
    json.dump({{"pid": os.getpid(), "arguments": sys.argv[1:], "environment": dict(os.environ)}},
              trace)
os.rename({trace!r} + ".new", {trace!r})  # whole when it is there
{before}
for line in {lines!r}:
    print(line, file=sys.{stream}, flush=True)
{after}
"""


WAIT = "time.sleep(600)"


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what puts a program on PATH, where nothing else is, and returns its trace."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def install(
        name: str,
        lines: list[str],
        *,
        before: str = "",
        after: str = WAIT,
        stream: str = "stdout",
    ) -> Path:
        trace, program = tmp_path / f"{name}.json", programs / name
        parts = {"trace": str(trace), "lines": lines, "before": before, "after": after}
        program.write_text(PROGRAM.format(python=sys.executable, stream=stream, **parts))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return trace

    return install


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
