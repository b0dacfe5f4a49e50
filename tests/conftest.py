"""Fixtures of all tests: the local Asana, and clients that it can reach."""

import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import hypothesis
import pytest
from support.ports import free_tcp_port

from asana_webhooks import MemoryStore, WebhooksClient
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store

if TYPE_CHECKING:
    from support.replicas import World

T = TypeVar("T")

# A shell ignores SIGINT for what it runs in the background, and nohup ignores SIGHUP; the programs
# that are interrupted here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# anyio binds functions of asyncio when it first runs, and some tests replace those.
anyio.run(anyio.lowlevel.checkpoint)

SERVERS = {"page", "postgres_server", "valkey", "world"}
"""The fixtures behind which servers run, or a browser."""

SLOW = {"page", "postgres_server", "world"}
"""Those of them that take each test a browser, processes, or a schema of its own."""

STORES = {"valkey": "valkey", "redis": "valkey", "postgres": "postgres_server"}
"""The servers of the stores that a parameter names."""


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: these wait more than they compute."""
    return min(2 * len(os.sched_getaffinity(0)), 8)


def pytest_configure(config: pytest.Config) -> None:
    """Let this process, and those that it starts, compile what they import once and no more.

    Where the environment forbids to write bytecode beside the source, it goes to pytest's cache,
    or without one to a folder that goes in the end: hundreds of processes start here, and compiling
    takes each one longer than its test.
    """
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.pycache_prefix = _bytecode_folder(config)
        sys.dont_write_bytecode = False
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _bytecode_folder(config: pytest.Config) -> str:
    if config.pluginmanager.hasplugin("cacheprovider"):
        return str(config.cache.mkdir("bytecode"))
    folder = tempfile.mkdtemp(prefix="bytecode-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, and what is slow, by the fixtures that it asks for.

    Raises UsageError for a name that another process would not give the same test.
    """
    for item in items:
        if re.search(r" at 0x[0-9a-f]{6}", item.nodeid):
            msg = f"{item.nodeid}: the address of an object is no name of a case; give it an id"
            raise pytest.UsageError(msg)
        if isinstance(item, pytest.Function) and not SERVERS.isdisjoint(_needs(item)):
            item.add_marker(pytest.mark.servers)
        if isinstance(item, pytest.Function) and not SLOW.isdisjoint(_needs(item)):
            item.add_marker(pytest.mark.slow)


def _needs(test: pytest.Function) -> set[str]:
    """Return the names of a test's fixtures, and of the servers of the stores that it is about."""
    about = test.callspec.params.values() if hasattr(test, "callspec") else ()
    stores = (each for each in about if isinstance(each, str) and each in STORES)
    return {*test.fixturenames, *(STORES[each] for each in stores)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test in CI, where all that tests need is there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is skipped, and nothing may be in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def no_unheard_exception() -> Iterator[None]:
    """Fail a test in whose event loop an exception reaches nobody but the log.

    Not one of a future without a task: a library whose server was killed leaves such futures, and
    they are found in the middle of another test.
    """
    unheard: list[Exception] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Future exception was never retrieved"):
                return
            if record.exc_info and isinstance(record.exc_info[1], Exception):
                unheard.append(record.exc_info[1])

    logger, collector = logging.getLogger("asyncio"), Collector(logging.ERROR)
    logger.addHandler(collector)
    yield
    logger.removeHandler(collector)
    if unheard:
        raise ExceptionGroup("the event loop logged what nobody awaited", unheard)


@pytest.fixture(autouse=True)
def no_signal_handler_left() -> Iterator[None]:
    """Fail a test that finds or leaves a handler of signals: what is interrupted would differ."""
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    yield
    left = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    assert left == handlers


@pytest.fixture(autouse=True)
def log_is_as_before() -> Iterator[None]:
    """Fail a test after which more is logged, or to more places, than before."""
    loggers = (logging.getLogger(), logging.getLogger("asana_webhooks"))
    before = [(each.level, each.handlers[:]) for each in loggers]
    yield
    left = [(each.level, each.handlers[:]) for each in loggers]
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
    assert left == before


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    async with AsanaSimulator(retry_delay=0.01, gather_for=0) as simulator:
        yield simulator


@pytest.fixture
def free_port() -> int:
    return free_tcp_port()


@pytest.fixture
def make_client(asana: AsanaSimulator, free_port: int) -> Callable[..., WebhooksClient]:
    """Return a function that makes clients of the local Asana, in memory unless told otherwise."""

    def make(**options: Any) -> WebhooksClient:
        options = {
            "public_url": f"http://127.0.0.1:{free_port}/hooks",
            **({} if {"serve", "unix_socket"} & set(options) else {"port": free_port}),
            "store": MemoryStore(),
            "base_url": asana.base_url,
            **options,
        }
        return WebhooksClient("a-token", **options)

    return make


@pytest.fixture(params=["sqlite", "valkey", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> "AsyncIterator[World]":
    """Yield processes on a store of each kind that processes can share.

    Tests share its server, but for those that harm it, which are marked ``own_server``.
    """
    from support.replicas import world_on  # it loads the servers, which most tests do without

    shared = request.node.get_closest_marker("own_server") is None
    async with world_on(request.param, tmp_path, shared=shared) as world:
        yield world


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store in memory, or of the kind that a test asks for with ``over_each_store``."""
    kind = getattr(request, "param", "memory")
    if kind == "memory":
        return MemoryStore()
    from support.replicas import shared_place_of  # it loads the servers

    return shared_place_of(kind, tmp_path).store()


over_each_store = pytest.mark.parametrize(
    "store",
    [
        *("memory", "sqlite"),
        pytest.param("valkey", marks=pytest.mark.servers),
        pytest.param("postgres", marks=[pytest.mark.servers, pytest.mark.slow]),
    ],
    indirect=True,
)
"""Runs a test over a store of each kind, by the fixture ``store``."""


def guard() -> AbstractContextManager[anyio.CancelScope]:
    """Fail what hangs: after half a minute, which no busy machine takes for what is in it."""
    return anyio.fail_after(30)


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail after half a minute."""
    with guard():
        while not condition():
            await anyio.sleep(0.002)


async def eventually(look: Callable[[], Awaitable[T | None]]) -> T:
    """Return what the look finds as soon as that is true; fail after half a minute."""
    with guard():
        while not (found := await look()):
            await anyio.sleep(0.002)
    return found
