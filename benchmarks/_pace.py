"""A load with a fixed rate, whatever the server does: latency from the scheduled time.

A request that a slow server keeps from being sent in time is late all the same: its wait counts.
The load never sleeps, because the clock of a sleeping one is a millisecond wide.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections import deque

from _lab import BrokenError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Pace:
    """Requests that wait for a connection, and the latencies of those that were answered."""

    def __init__(self) -> None:
        self.idle: deque[_Connection] = deque()
        self.late: deque[tuple[float, bytes]] = deque()
        self.latencies: list[float] = []
        self.failed: str | None = None
        self.closing = False

    def send(self, due: float, request: bytes) -> None:
        """Send a request, as soon as there is a connection for it."""
        if self.idle:
            self.idle.popleft().send(due, request)
        else:
            self.late.append((due, request))

    def free(self, connection: _Connection) -> None:
        """Use a connection again."""
        if self.late:
            connection.send(*self.late.popleft())
        else:
            self.idle.append(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP is
        self._transport = transport
        self._pace.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._pace.closing:
            self._pace.failed = self._pace.failed or "the server closed a connection"

    def send(self, due: float, request: bytes) -> None:
        self._due, self._buffer = due, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not separator or (length and len(body) < int(length[1])):
            return
        self._pace.latencies.append(time.monotonic() - self._due)
        if not head.startswith(b"HTTP/1.1 200 "):
            self._pace.failed = f"a delivery was answered {head[:40]!r}"
        self._pace.free(self)


async def measure(
    port: int, requests: list[bytes], *, rate: float, connections: int, warm_up: int
) -> list[float]:
    """Send the requests, ``rate`` a second; return their latencies without the first ones."""
    gc.disable()  # its pauses would count as the server's
    pace = Pace()
    transports = await _connect(pace, port, connections)
    started = time.monotonic() + 0.1
    for number, request in enumerate(requests):
        due = started + number / rate
        while time.monotonic() < due:  # noqa: ASYNC110 - on purpose: see above
            await asyncio.sleep(0)
        pace.send(due, request)
    latencies = await _answered(pace, len(requests))
    pace.closing = True
    for transport in transports:
        transport.close()
    gc.enable()
    return latencies[warm_up:]


async def _connect(pace: Pace, port: int, count: int) -> list[asyncio.Transport]:
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: _Connection(pace), "127.0.0.1", port)
        for _ in range(count)
    ]
    return [transport for transport, _ in pairs]


async def _answered(pace: Pace, count: int) -> list[float]:
    try:
        async with asyncio.timeout(30):
            while len(pace.latencies) < count and pace.failed is None:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0)
    except TimeoutError:
        pace.failed = f"{count - len(pace.latencies)} of {count} deliveries had no answer in 30 s"
    if pace.failed is not None:
        raise BrokenError(pace.failed)
    return pace.latencies
