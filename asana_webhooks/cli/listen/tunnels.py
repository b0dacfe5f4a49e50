"""Tunnels: programs of others that give this machine an address on the internet.

They are started if they are there, never fetched, and end with the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio
import click

from ..._asana_transport import TOKEN_VARIABLES
from ..._background import background_task
from ...stores.urls import KEYS_VARIABLE
from ..output import on_one_line
from ..variables import SECRET_VARIABLE, STORE_VARIABLE
from .programs import PROGRAMS, Reader

__all__ = ["Tunnel", "tunnel"]

URL_TIMEOUT = 30.0
"""Seconds in which a program must tell its address."""

STOP_TIMEOUT = 5.0
"""Seconds that a program has to end by itself."""

LINES_KEPT = 6
LONGEST_LINE = 2**20


class Tunnel(NamedTuple):
    """A tunnel that stands: whose, its address, and what is set when its program ends."""

    name: str
    url: str
    ended: asyncio.Event


@contextlib.asynccontextmanager
async def tunnel(name: str | None, port: int) -> AsyncIterator[Tunnel]:
    """Run a program, the first that is there for None, that leads the internet to a port here.

    Raises ClickException when there is none, or when it does not tell its address.
    """
    name, path = _find(name)
    program = PROGRAMS[name]
    process = await asyncio.create_subprocess_exec(
        path,
        *program.arguments(port),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LONGEST_LINE,
        env=_without_secrets(),
        start_new_session=True,  # Ctrl-C is for us: first the webhook is deleted
    )
    output = _Output(process, program.reader())
    try:
        async with background_task(output.read(), f"output of {name}"):
            yield Tunnel(name, await _address(name, output), output.ended)
    finally:
        await _end(process)


def _find(name: str | None) -> tuple[str, str]:
    for each in PROGRAMS if name is None else (name,):
        path = shutil.which(each)
        if path is not None:
            return each, path
    missing = f"{name} is not" if name else "none of cloudflared, ngrok and tailscale is"
    msg = f"{missing} on PATH: install it, or give the address of a tunnel as --public-url"
    raise click.ClickException(msg)


def _without_secrets() -> dict[str, str]:
    ours = {*TOKEN_VARIABLES, KEYS_VARIABLE, SECRET_VARIABLE, STORE_VARIABLE}
    return {name: value for name, value in os.environ.items() if name not in ours}


class _Output:
    """What a program prints: read to its end, the last lines kept."""

    def __init__(self, process: asyncio.subprocess.Process, reader: Reader) -> None:
        self._process = process
        self._reader = reader
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.url: str | None = None
        self.known = asyncio.Event()
        self.ended = asyncio.Event()

    async def read(self) -> None:
        """Read until the program ends: who does not read it may block it."""
        assert self._process.stdout is not None  # noqa: S101 - it was asked to be a pipe
        async for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            self._lines.append(text)
            if self.url is None:
                self.url = self._reader(text)
                if self.url is not None:
                    self.known.set()
        await self._process.wait()
        self.ended.set()
        self.known.set()

    def last_lines(self) -> str:
        """Return the end of what it printed, on one line, without the token of its own."""
        said = " | ".join(on_one_line(line) for line in self._lines if line)
        return re.sub(r"(?i)(authtoken\W{1,3})\S+", r"\1...", said) or "nothing"


async def _address(name: str, output: _Output) -> str:
    with anyio.move_on_after(URL_TIMEOUT):
        await output.known.wait()
    if output.url is not None and not output.ended.is_set():
        return output.url
    what = "ended" if output.ended.is_set() else f"told no address within {URL_TIMEOUT:g} s"
    msg = f"{name} {what}; it said: {output.last_lines()}"
    raise click.ClickException(msg)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program, and what it has started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        # Python before 3.12.4 waits for the end of the output too, which others may hold open.
        with anyio.move_on_after(STOP_TIMEOUT, shield=True):
            await process.wait()
            break
    # Others may still hold the output open: our end of it is closed without waiting for theirs.
    process._transport.close()  # type: ignore[attr-defined] # a Process has no method for it
