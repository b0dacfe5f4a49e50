"""A real browser for tests: headless Chromium, driven over its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root, and in containers, there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)


def find_chromium() -> str:
    """Return the path of a browser. Skips the test without one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return found


class Page:
    """One tab; ``problems`` are the errors of its scripts, and what its policy has blocked."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []

    async def read(self) -> None:
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            elif content["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(content["params"]["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded":
                entry = content["params"]["entry"]
                if entry["source"] != "network":
                    self.problems.append(entry["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        with anyio.fail_after(20):
            content = await answer
        assert "error" not in content, content
        result: dict[str, Any] = content["result"]
        return result

    async def show(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        await self.resize(width, height)
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href === '{url}' && document.readyState === 'complete'")

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def evaluate(self, expression: str) -> Any:
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return when the expression is true on the page; fail after ten seconds."""
        with anyio.move_on_after(10):
            while not await self.evaluate(expression):
                await anyio.sleep(0.02)
            return
        text = await self.evaluate("document.body.innerText")
        pytest.fail(f"never true: {expression}; the page says: {text}")

    async def press(self, key: str) -> None:
        codes = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}
        options: dict[str, Any] = {"key": key, "code": key}
        options["windowsVirtualKeyCode"] = codes.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **options)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **options)

    async def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """Start a browser with one tab, and end it."""
    program = find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = await _port(profile, process)
            async with _tab(port) as page:
                yield page
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()


async def _port(profile: str, process: asyncio.subprocess.Process) -> int:
    with anyio.fail_after(30):
        while (port := _read_port(profile)) is None:
            assert process.returncode is None, "the browser ended at once"
            await anyio.sleep(0.02)
    return port


def _read_port(profile: str) -> int | None:
    try:
        port, _, rest = Path(profile, "DevToolsActivePort").read_text().partition("\n")
    except FileNotFoundError:
        return None
    return int(port) if rest else None


@contextlib.asynccontextmanager
async def _tab(port: int) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as http:
        async with http.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        async with http.ws_connect(address, max_msg_size=0) as socket:
            page = Page(socket)
            reading = asyncio.create_task(page.read())
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            try:
                yield page
            finally:
                reading.cancel()
                await asyncio.wait([reading])
