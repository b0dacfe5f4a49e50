"""Tunnels: programs of others that give this machine an address on the internet.

They are started if they are there, never fetched, and end with the command. What they print is
read for their address:

cloudflared, on standard error, in a box of plus signs and dashes; ready some lines later
  https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/do-more-with-tunnels/trycloudflare/
ngrok, as one of its log lines in JSON
  https://ngrok.com/docs/agent/cli#ngrok-http
tailscale, below the words "Available on the internet"
  https://tailscale.com/docs/reference/tailscale-cli/funnel
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import click

from .access import CLIENT_SECRET_VARIABLE, STORE_VARIABLE
from .output import on_one_line

if TYPE_CHECKING:
    import asyncio

__all__ = ["PROGRAMS", "Tunnel", "tunnel"]

URL_TIMEOUT = 30.0
"""Seconds in which a program must tell its address."""

STOP_TIMEOUT = 5.0
"""Seconds that a program has to end by itself."""

LINES_KEPT = 6
LONGEST_LINE = 2**20


Reader: TypeAlias = Callable[[str], str | None]
"""Given one line of output after the other; returns the address when it is known and usable."""


def _cloudflared() -> Reader:
    # The name of its own API may be in an error; the address is of use when a connection stands.
    address = re.compile(r"https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com")
    connected = re.compile(r"\bRegistered tunnel connection|\bConnection \S+ registered")
    found: list[str] = []

    def read(line: str) -> str | None:
        found.extend(address.findall(line))
        return found[0] if found and connected.search(line) else None

    return read


def _ngrok() -> Reader:
    def read(line: str) -> str | None:
        try:
            fields = json.loads(line)
        except ValueError:
            return None
        if not isinstance(fields, dict) or fields.get("msg") != "started tunnel":
            return None
        url = str(fields.get("url", ""))
        return url if url.startswith("https://") else None

    return read


def _tailscale() -> Reader:
    address = re.compile(r"^\s*(https://[a-z0-9.-]+\.ts\.net(?::\d+)?)/?\s*$")

    def read(line: str) -> str | None:
        found = address.match(line)
        return found[1] if found else None

    return read


class Program(NamedTuple):
    """The arguments that lead to a port, and what reads the output."""

    arguments: Callable[[int], Sequence[str]]
    reader: Callable[[], Reader]


PROGRAMS = {
    "cloudflared": Program(
        lambda port: ("tunnel", "--no-autoupdate", "--url", f"http://127.0.0.1:{port}"),
        _cloudflared,
    ),
    "ngrok": Program(lambda port: ("http", str(port), "--log=stdout", "--log-format=json"), _ngrok),
    "tailscale": Program(lambda port: ("funnel", str(port)), _tailscale),
}


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
    import asyncio

    from .._background import background_task

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
    from .._asana_transport import TOKEN_VARIABLES
    from ..stores.urls import KEYS_VARIABLE

    ours = {*TOKEN_VARIABLES, KEYS_VARIABLE, CLIENT_SECRET_VARIABLE, STORE_VARIABLE}
    return {name: value for name, value in os.environ.items() if name not in ours}


class _Output:
    """The output of a program: read to its end, the last lines kept."""

    def __init__(self, process: asyncio.subprocess.Process, reader: Reader) -> None:
        import asyncio

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
    import anyio

    with anyio.move_on_after(URL_TIMEOUT):
        await output.known.wait()
    if output.url is not None and not output.ended.is_set():
        return output.url
    what = "ended" if output.ended.is_set() else f"told no address within {URL_TIMEOUT:g} s"
    msg = f"{name} {what}; it said: {output.last_lines()}"
    raise click.ClickException(msg)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program, and what it has started in its session."""
    import anyio

    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        # Python before 3.12.4 waits for the end of the output too, which others may hold open.
        with anyio.move_on_after(STOP_TIMEOUT, shield=True):
            await process.wait()
            break
    # Others may still hold the output open: our end of it is closed without waiting for theirs.
    process._transport.close()  # type: ignore[attr-defined] # a Process has no method for it
