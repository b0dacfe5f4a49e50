"""``asana-webhooks serve``: a receiver as one process, or as several that share a port."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .access import STORE_VARIABLE
from .app import INTERRUPTED
from .options import STORE, is_store_option_given
from .output import is_debugging, log_to_stderr

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import ThreadPoolExecutor

    from ..client import WebhooksClient

__all__ = ["command", "find_client"]

HOST, PORT = "127.0.0.1", 8080
"""The address of a receiver without a client."""

HELD_FOR = 0.2
"""Seconds that what still runs may hold the process, after all else has ended."""

logger = logging.getLogger(__name__)


@click.command("serve")
@click.argument("target", required=False)
@STORE
@click.option("--host", help="The address to listen on; 127.0.0.1 unless the client says another.")
@click.option("--port", type=click.IntRange(0, 65_535), help="8080 unless the client says another.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that share the port.")
@click.option(
    "--handlers/--no-handlers", default=True, help="Or only store deliveries, for other processes."
)
@click.option("--supervised", is_flag=True, hidden=True)
def command(
    *,
    target: str | None,
    store: str,
    host: str | None,
    port: int | None,
    workers: int,
    handlers: bool,
    supervised: bool,
) -> None:
    """Receive deliveries, and hand them to handlers, until told to stop.

    TARGET is the client with its handlers, or a function that returns it, as module:name; module
    alone means module:client. It names its store itself: --store is refused beside it, and
    ASANA_WEBHOOKS_STORE is not read. Without TARGET a receiver alone keeps deliveries in --store
    for other processes; it needs no token.

    SIGTERM or Ctrl-C ends it within ten seconds, a second one at once; nothing is lost.
    """
    import asyncio

    from .workers import reserved_port, supervise

    log_to_stderr(logging.INFO)
    if target is None:
        client = None
        _check_store(store)
    else:
        _check_no_store_option()
        client = find_client(target)
        _check_client(client, handlers=handlers, shared=workers > 1 or not handlers)
        _move(client, host, port, share_port=workers > 1 or supervised)
    if workers == 1:
        _run(_serve(client, store, host, port, handlers=handlers, supervised=supervised))
        return
    own = PORT if client is None or client.port is None else client.port
    with reserved_port(host or HOST, own if port is None else port) as shared:
        arguments = ["--debug"] if is_debugging() else []
        arguments += ["serve", *([target] if target else [])]
        arguments += ["--port", str(shared), "--supervised", *(["--host", host] if host else [])]
        arguments += [] if handlers else ["--no-handlers"]
        # The store's URL may hold a password, and everybody here may read arguments.
        environment = os.environ if target else os.environ | {STORE_VARIABLE: store}
        asyncio.run(supervise(arguments, environment, workers))


def _check_no_store_option() -> None:
    """Raise UsageError for --store; the variable in its place may be there for other commands."""
    if is_store_option_given():
        msg = "a client names its store itself: leave out --store, or give store= to the client"
        raise click.UsageError(msg)


def _check_store(url: str) -> None:
    """Raise UsageError for a store that nothing but this receiver sees."""
    if url == "memory:":
        msg = (
            "a store in memory ends with this process, and no other can handle what it holds:"
            " name a lasting one with --store, or a client with handlers as module:name"
        )
        raise click.UsageError(msg)


def _check_client(client: WebhooksClient, *, handlers: bool, shared: bool) -> None:
    """Raise UsageError for a client that cannot do its part, or share its store as it should."""
    from ..stores.memory import MemoryStore

    if client._components is None:
        msg = "this client only calls Asana: give it a public_url to receive webhooks"
        raise click.UsageError(msg)
    if handlers and not client._router:
        msg = "this client has no handler: give it one with @client.on(...), or say --no-handlers"
        raise click.UsageError(msg)
    if shared and isinstance(client._components.store, MemoryStore):
        msg = (
            "this client's store is in memory, which no other process sees: give the client a"
            " lasting one, such as sqlite:///hooks.db, or leave out --workers and --no-handlers"
        )
        raise click.UsageError(msg)


def _move(client: WebhooksClient, host: str | None, port: int | None, *, share_port: bool) -> None:
    """Have the client listen where the options say. Raises UsageError when it listens nowhere."""
    if host is None and port is None and not share_port:
        return
    try:
        client._listen(host, port, reuse_port=share_port or None)
    except RuntimeError as error:
        msg = f"--host, --port and --workers need a client that listens on a port: {error}"
        raise click.UsageError(msg) from error


def find_client(target: str) -> WebhooksClient:
    """Return the client that ``module:name`` names, or that the function of that name returns.

    Modules are looked for in the current directory first. Raises ClickException when there is none.
    """
    from ..client import WebhooksClient

    sys.path.insert(0, os.getcwd())
    try:
        client = _load(target)
    except click.ClickException:
        raise
    except Exception as error:  # whatever a module of somebody else raises
        msg = f"{target!r} fails: {type(error).__name__}: {error}; `asana-webhooks --debug serve"
        raise click.ClickException(f"{msg} {target}` shows where") from error
    if not isinstance(client, WebhooksClient):
        kind = type(client).__name__
        msg = f"{target!r} is of type {kind}; it must be a WebhooksClient, or return one"
        raise click.ClickException(msg)
    return client


def _load(target: str) -> object:
    from ..client import WebhooksClient

    module, _, name = target.partition(":")
    try:
        if not module:
            msg = "it has no module"
            raise ImportError(msg)
        found: object = getattr(importlib.import_module(module), name or "client")
    except (ImportError, AttributeError) as error:
        msg = f"{target!r} names no client: {error}; write module:name, such as service:client"
        raise click.ClickException(msg) from error
    return found if isinstance(found, WebhooksClient) or not callable(found) else found()


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, and end the process when handlers go on after that.

    What they handle stays in the store. They may run in a thread, which nothing can end, or have
    swallowed their cancellation: ``asyncio.run`` would wait for both.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")  # asyncio's own keeps its threads
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(executor)
        failure: BaseException | None = None
        try:
            runner.run(main)
        except BaseException as error:
            failure = error
            raise
        finally:
            if runner.run(_tasks_go_on()) or _threads_go_on(executor):
                _exit_at_once(failure)


async def _tasks_go_on() -> bool:
    import asyncio

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        others = (await asyncio.wait(others, timeout=HELD_FOR))[1]
    return bool(others)


def _threads_go_on(executor: ThreadPoolExecutor) -> bool:
    from threading import Thread

    waiting = Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    waiting.start()
    waiting.join(HELD_FOR)
    return waiting.is_alive()


def _exit_at_once(failure: BaseException | None) -> None:
    """End the process, with the status and, for a failure, a text as if it ended by itself."""
    interrupted = isinstance(failure, KeyboardInterrupt)
    if failure is not None and not interrupted:
        logger.error("it ended with an error", exc_info=failure)
    logger.warning("a handler goes on, in a thread or as a task; the process ends without it")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # None, or it was closed
            stream.flush()
    os._exit(INTERRUPTED if interrupted else int(failure is not None))


async def _serve(
    client: WebhooksClient | None,
    store: str,
    host: str | None,
    port: int | None,
    *,
    handlers: bool,
    supervised: bool,
) -> None:
    import asyncio

    from .._background import background_task
    from ..serving import serve, serve_store
    from ..stores.urls import open_store
    from .workers import end_of_input, tell_start

    started = asyncio.Event()
    stop = end_of_input() if supervised else None
    async with contextlib.AsyncExitStack() as beside:
        if supervised:
            await beside.enter_async_context(background_task(tell_start(started), "start"))
        if client is not None:
            await serve(client, handlers=handlers, stop=stop, started=started)
            return
        await serve_store(
            open_store(store),
            host=host or HOST,
            port=PORT if port is None else port,
            reuse_port=supervised,
            stop=stop,
            started=started,
        )
