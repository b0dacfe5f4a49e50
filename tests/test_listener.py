"""Accepting connections: a few at a time, and when no descriptors are left; in real processes."""

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from conftest import until

from asana_webhooks import _listener as module
from asana_webhooks._listener import Listener, bind, bind_unix, connections_within
from asana_webhooks.signature import sign

SECRET, ROUTE = "s" * 32, "r" * 32

PROGRAM = f"""
import asyncio, logging, os, time
from asana_webhooks._endpoint import Endpoint
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks.models import Route
from asana_webhooks.stores.memory import MemoryStore

logging.basicConfig(level=logging.INFO)


async def main():
    store = MemoryStore()
    await store.reserve(Route(id="{ROUTE}", target="https://h/{ROUTE}", resource="1"), ttl=60)
    await store.add_candidate("{ROUTE}", "{SECRET}")
    await store.confirm("{ROUTE}", gid="2", secret="{SECRET}")
    endpoint = Endpoint(store, on_arrival=lambda: None)
    async with Receiver(endpoint, host="127.0.0.1", port=0) as receiver:
        said = []
        PREPARE
        print(receiver.port, *said, flush=True)
        await asyncio.Event().wait()

RUN(main())
"""

BODY = b'{"events":[]}'
DELIVERY = (
    f"POST /{ROUTE} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n"
    f"X-Hook-Signature: {sign(BODY, SECRET)}\r\nConnection: close\r\n\r\n"
).encode() + BODY


@contextmanager
def receiving(
    log: Path, *, descriptors: int, prepare: str = "pass", run: str = "asyncio.run"
) -> Iterator[tuple[Any, ...]]:
    """Run a receiver in a process with so many descriptors; yield it, its port and what it says."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = PROGRAM.replace("PREPARE", prepare).replace("RUN", run)
    limited = f"import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, ({descriptors}, {hard}))\n"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", limited + program],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield process, *map(int, process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()


def deliver(port: int) -> float:
    """Return after how many seconds a good delivery was answered 200."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(DELIVERY)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    return time.monotonic() - began


def silent(stack: ExitStack, port: int, count: int) -> None:
    """Open connections that say nothing."""
    for _ in range(count):
        connection = stack.enter_context(closing(socket.socket()))
        connection.connect(("127.0.0.1", port))


TAKE_THE_REST = """
        taken = []
        while len(taken) < 220:
            taken.append(os.open(os.devnull, os.O_RDONLY))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "lines"),
    [
        pytest.param("pass", ["at most 192 connections", "too many connections"], id="in bounds"),
        pytest.param(
            TAKE_THE_REST, ["at most 192 connections", "Too many open files"], id="none left"
        ),
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_good_delivery_is_answered_within_a_second_among_hundreds_of_silent_connections(
    tmp_path: Path, prepare: str, lines: list[str], loop: str
) -> None:
    pytest.importorskip(loop)
    log, run = tmp_path / "log", f"__import__('{loop}').run"
    receiver = receiving(log, descriptors=256, prepare=prepare, run=run)
    with receiver as (_, port), ExitStack() as stack:
        seconds = []
        for _ in range(5):
            silent(stack, port, 120)
            seconds.append(deliver(port))
    assert min(seconds[2:]) < 1  # the others have a busy machine's time, and were answered
    said = log.read_text().splitlines()
    assert [sum(line in each for each in said) for line in lines] == [1, 1]
    assert len(said) == 2


FORK = """
        child = os.fork()
        if child == 0:
            for descriptor in range(3):
                os.close(descriptor)
            time.sleep(60)
            os._exit(0)
        said.append(child)
"""


@pytest.mark.slow
def test_port_is_free_when_a_process_was_killed_whose_forked_child_lives_on(
    tmp_path: Path,
) -> None:
    with receiving(tmp_path / "log", descriptors=256, prepare=FORK) as (process, port, child):
        deliver(port)  # the fork took nothing from its parent
        process.kill()
        process.wait()
        try:
            with socket.create_server(("127.0.0.1", port)):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


# In this process


class Taken:
    """Takes connections as a receiver does, and has none to end."""

    def __init__(self) -> None:
        self.connections: list[socket.socket] = []
        self.errors: list[OSError] = []

    def take(self, connection: socket.socket) -> None:
        self.connections.append(connection)

    def make_room(self, error: OSError) -> None:
        self.errors.append(error)

    def __enter__(self) -> "Taken":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()


async def listening_to(taken: Taken) -> tuple[Listener, int]:
    (listening,) = await bind("127.0.0.1", 0, reuse_port=False, backlog=100)
    listener = Listener([listening], take=taken.take, make_room=taken.make_room)
    return listener, listening.getsockname()[1]


async def test_no_more_than_a_few_connections_are_accepted_at_once() -> None:
    with Taken() as taken, ExitStack() as stack:
        listener, port = await listening_to(taken)
        silent(stack, port, 40)
        counts = []
        while len(taken.connections) < 40:
            await checkpoint()
            counts.append(len(taken.connections))
        listener.close()
    steps = [later - earlier for earlier, later in pairwise([0, *counts])]
    assert max(steps) <= module.AT_ONCE


async def test_accepting_goes_on_after_a_pause_when_descriptors_are_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept = socket.socket.accept
    failing = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "gone")]

    def fail_at_first(self: socket.socket) -> tuple[socket.socket, object]:
        if failing:
            raise failing.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail_at_first)
    with Taken() as taken, ExitStack() as stack:
        listener, port = await listening_to(taken)
        silent(stack, port, 1)
        await until(lambda: taken.errors)
        assert not taken.connections
        await until(lambda: taken.connections)
        listener.close()
    assert [error.errno for error in taken.errors] == [errno.EMFILE]


async def test_listener_that_is_closed_in_its_pause_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(socket.socket, "accept", fail)
    with Taken() as taken, ExitStack() as stack:
        listener, port = await listening_to(taken)
        silent(stack, port, 1)
        await until(lambda: taken.errors)
        listener.close()
        count = len(taken.errors)
        await asyncio.sleep(0.05)
        assert len(taken.errors) == count


@pytest.mark.parametrize(
    ("soft", "wanted", "allowed"),
    [
        pytest.param(256, 1000, 192, id="three quarters"),
        pytest.param(1024, 100, 100, id="enough"),
        pytest.param(1, 1000, 1, id="never none"),
        pytest.param(resource.RLIM_INFINITY, 1000, 1000, id="no limit"),
    ],
)
def test_connections_leave_descriptors_for_the_rest_of_the_process(
    monkeypatch: pytest.MonkeyPatch, soft: int, wanted: int, allowed: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert connections_within(wanted) == allowed


def test_limit_of_descriptors_is_raised_as_far_as_the_system_permits() -> None:
    program = (
        "import resource as r; from asana_webhooks._listener import raise_descriptor_limit\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 200)); raise_descriptor_limit()\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout == b"(200, 200)\n"


async def test_address_that_cannot_be_listened_on_is_named_and_nothing_is_left_open() -> None:
    (taken,) = await bind("127.0.0.1", 0, reuse_port=False, backlog=1)
    port = taken.getsockname()[1]
    with closing(taken), pytest.raises(OSError, match=f"127.0.0.1', {port}.*: address already"):
        await bind("127.0.0.1", port, reuse_port=False, backlog=1)


async def test_every_address_of_a_host_is_listened_on() -> None:
    sockets = await bind("", 0, reuse_port=False, backlog=1)
    families = [each.family for each in sockets]
    for each in sockets:
        each.close()
    assert socket.AF_INET in families
    assert len(set(families)) == len(families)


def test_unix_socket_replaces_one_that_was_left_and_nothing_else(tmp_path: Path) -> None:
    left, other = tmp_path / "left", tmp_path / "other"
    for _ in range(2):
        (listening,) = bind_unix(str(left), backlog=1)
        listening.close()
    other.write_text("precious")
    with pytest.raises(OSError, match="address already in use"):
        bind_unix(str(other), backlog=1)
    assert other.read_text() == "precious"
