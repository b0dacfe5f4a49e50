"""A program that reaches the local Asana as if it were the real one: ``simulate --run``.

Its environment names a proxy, which leads https://app.asana.com to the local Asana, and the
authority that vouches for that. Python and Node.js programs are led there also where their
libraries read no such variable: ``redirect.py`` and ``redirect.cjs`` are loaded when they start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

from .._signals import SIGNALS
from .certificates import REAL_HOST, usual_roots
from .output import on_one_line

__all__ = ["Signals", "connect_proxy", "environment", "run"]

Say = Callable[[str], None]

LOCAL = ("localhost", "127.0.0.1", "::1")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")

LONGEST_HEAD = 16_384
HEAD_TIMEOUT = 10.0
CHUNK = 65_536
LONGEST_NAME = 255
MOST_SAID = 1_000
"""How many refused hosts are remembered, so that none is said twice."""

NOT_FOUND = 127
NOT_RUNNABLE = 126
KILLED = 128
"""The exit statuses by which shells say so; the last with the number of a signal added."""

REFUSED = f"The proxy of the local Asana leads to {REAL_HOST} only; --allow-others changes that."
REASONS = MappingProxyType(
    {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 502: "Bad Gateway"}
)


class _Proxy:
    """Answers ``CONNECT``: joins callers with the local Asana, or with others if it may."""

    def __init__(self, asana: tuple[str, int], *, allow_others: bool, say: Say) -> None:
        self._asana = asana
        self._allow_others = allow_others
        self._say = say
        self._said: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end, and close it."""
        try:
            with contextlib.suppress(OSError):  # also TimeoutError: the caller is gone, or silent
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return await _answer(writer, 400, "This is no request to a proxy.")
        line = head.partition(b"\r\n")[0].decode("latin-1")
        if not line.startswith("CONNECT "):
            return await _answer(writer, 405, "This proxy answers CONNECT only.")
        asked = re.fullmatch(r"CONNECT \[?([^\s\[\]]+?)\]?:(\d{1,5}) HTTP/1\.[01]", line)
        if asked is None or int(asked[2]) > 65_535 or len(asked[1]) > LONGEST_NAME:
            return await _answer(writer, 400, "Write CONNECT host:port.")
        address = self._way(asked[1].lower().rstrip("."), int(asked[2]))
        if address is None:
            return await _answer(writer, 403, REFUSED)
        try:
            ahead, back = await asyncio.open_connection(*address)
        except (OSError, UnicodeError) as error:
            return await _answer(writer, 502, f"No connection: {type(error).__name__}.")
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, back), _copy(ahead, writer))
        finally:
            back.close()
        return None

    def _way(self, host: str, port: int) -> tuple[str, int] | None:
        if (host, port) == (REAL_HOST, 443):
            return self._asana
        if self._allow_others:
            return host, port
        name = on_one_line(f"{host}:{port}")
        if name not in self._said and len(self._said) < MOST_SAID:
            self._said.add(name)
            self._say(f"refused    {name}: the program may call it with --allow-others")
        return None


async def _answer(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    lines = (
        f"HTTP/1.1 {status} {REASONS[status]}",
        "Content-Type: text/plain",
        f"Content-Length: {len(text) + 1}",
        "Connection: close",
    )
    writer.write("\r\n".join([*lines, "", f"{text}\n"]).encode())
    await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy to the end of what is read; an end that is no clean one is passed on too."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def connect_proxy(
    asana: tuple[str, int], *, allow_others: bool, say: Say
) -> AsyncIterator[str]:
    """Run the proxy on this machine, and give its URL.

    ``asana`` is where the local Asana speaks TLS. ``say`` is told once of each other host that is
    refused; with ``allow_others`` none is.
    """
    proxy = _Proxy(asana, allow_others=allow_others, say=say)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer), name="asana-webhooks proxy")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=LONGEST_HEAD)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        ending = [*tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@contextlib.contextmanager
def environment(
    asana: tuple[str, int], authority: str, proxy: str, *, allow_others: bool
) -> Iterator[dict[str, str]]:
    """Give the variables of a program that reaches the local Asana as the real one.

    They name files of a folder that is deleted in the end. The program trusts the ``authority``
    (PEM) alone, with ``allow_others`` also those that it trusts without us.
    """
    mine = dict(os.environ)
    roots = usual_roots(mine.get("SSL_CERT_FILE")) if allow_others else ""
    with tempfile.TemporaryDirectory(prefix="asana-webhooks-") as name:
        folder = Path(name)
        bundle = folder / "authorities.pem"
        bundle.write_text(f"{roots}\n{authority}", encoding="utf-8")
        target = {"host": REAL_HOST, "address": asana[0], "port": asana[1]}
        described = json.dumps({**target, "authorities": str(bundle)})
        (folder / "target.json").write_text(described, encoding="utf-8")
        source = Path(__file__).parent
        shutil.copyfile(source / "redirect.py", folder / "sitecustomize.py")
        shutil.copyfile(source / "redirect.cjs", folder / "redirect.cjs")
        yield {
            **mine,
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(_not_by_proxy(mine))),
            **dict.fromkeys(BUNDLES, str(bundle)),
            "NODE_USE_ENV_PROXY": "1",
            "NODE_OPTIONS": _joined(" ", f'--require="{folder}/redirect.cjs"', "NODE_OPTIONS"),
            "PYTHONPATH": _joined(os.pathsep, name, "PYTHONPATH"),
        }


def _not_by_proxy(variables: dict[str, str]) -> list[str]:
    """Return this machine, and the hosts that the user excepts but for Asana's."""
    excepted = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    names = (each.strip() for each in excepted.split(","))
    others = [each for each in names if not REAL_HOST.endswith(each.lstrip("*."))]
    return list(dict.fromkeys([*LOCAL, *others]))


def _joined(separator: str, value: str, variable: str) -> str:
    return separator.join(filter(None, [value, os.environ.get(variable)]))


class Signals:
    """Passes on to a program the signals that come while it is entered; early ones wait for it."""

    _NUMBERS = (*SIGNALS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: list[int] = []

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in self._NUMBERS}
        self._before = {  # what is ignored, as by nohup, the program ignores too
            number: handler for number, handler in before.items() if handler is not signal.SIG_IGN
        }
        for number in self._before:
            loop.add_signal_handler(number, self._pass_on, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)

    def lead_to(self, process: asyncio.subprocess.Process) -> None:
        """Send this program what came, and what comes."""
        self._process = process
        for number in self._early:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._process is None:
            self._early.append(number)
        elif number not in (signal.SIGINT, signal.SIGQUIT) or not _in_foreground():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _in_foreground() -> bool:
    """Return whether a terminal sends its Ctrl-C to this process, and so to the program itself."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


async def run(
    command: Sequence[str], variables: dict[str, str], signals: Signals, *, say: Say
) -> int:
    """Run a program with these variables; return its exit status as a shell would tell it."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env=variables)
    except OSError as error:
        say(on_one_line(f"{command[0]}: {error.strerror}"))
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE
    signals.lead_to(process)
    status = await process.wait()
    return status if status >= 0 else KILLED - status
