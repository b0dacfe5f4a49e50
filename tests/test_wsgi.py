"""A client in a thread, for programs without asyncio, and its WSGI application."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from conftest import guard, until
from support.doors import GOOD, HEARTBEAT, MAX_BODY, PATH, RESERVED, SECRET, delivery, make_store
from support.inboxes import event, is_empty, put

from asana_webhooks import Event, Failure, MemoryStore, sign
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.wsgi import WsgiClient


def make(store: MemoryStore, **options: Any) -> WsgiClient:
    return WsgiClient(
        "a-token",
        public_url="https://hooks.example.com/hooks",
        store=store,
        serve=False,
        base_url="http://127.0.0.1:9",
        look_after=None,
        reconcile=None,
        max_body=MAX_BODY,
        **options,
    )


@pytest.fixture
async def store() -> MemoryStore:
    return await make_store()


@pytest.fixture
def client(store: MemoryStore) -> Iterator[WsgiClient]:
    made = make(store, handler_timeout=0.1, first_delay=0.01)
    made.start()
    yield made
    made.stop()


def ask(client: WsgiClient, body: bytes = HEARTBEAT, **environ: Any) -> tuple[str, dict[str, str]]:
    """Return the status line and the headers of an answer that keeps to PEP 3333."""
    asked: dict[str, Any] = {"REQUEST_METHOD": "POST", "QUERY_STRING": ""}
    asked |= {"SCRIPT_NAME": "/hooks", "PATH_INFO": PATH[6:], "CONTENT_LENGTH": str(len(body))}
    asked |= {"wsgi.input": io.BytesIO(body), **environ}
    asked = {name: value for name, value in asked.items() if value is not None}
    setup_testing_defaults(asked)
    answers: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        answers.append((status, dict(headers)))
        return lambda _: None

    pieces = validator(client.wsgi)(asked, start_response)
    text = b"".join(pieces)
    pieces.close()  # type: ignore[attr-defined]  # the validator's has it
    ((status, headers),) = answers
    assert headers["Content-Length"] == str(len(text))
    return status, headers


# The application


SIGNED: dict[str, Any] = {"HTTP_X_HOOK_SIGNATURE": GOOD.decode()}
LARGE = b" " * (MAX_BODY + 1)


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        pytest.param("200 OK", SIGNED, id="a delivery"),
        pytest.param("200 OK", SIGNED | {"RAW_URI": PATH}, id="the path as it came"),
        pytest.param(
            "200 OK",
            SIGNED | {"CONTENT_LENGTH": None, "wsgi.input_terminated": True},
            id="a chunked body",
        ),
        pytest.param("401 Unauthorized", SIGNED | {"CONTENT_LENGTH": ""}, id="no body"),
        pytest.param("401 Unauthorized", {}, id="no signature"),
        pytest.param("400 Bad Request", SIGNED | {"CONTENT_LENGTH": "20"}, id="a cut body"),
        pytest.param("404 Not Found", SIGNED | {"PATH_INFO": "/x"}, id="an unknown path"),
        pytest.param(
            "404 Not Found", SIGNED | {"RAW_URI": "/hooks/%63" + PATH[8:]}, id="an encoded path"
        ),
        pytest.param("404 Not Found", SIGNED | {"PATH_INFO": PATH[6:] + "?"}, id="a question mark"),
        pytest.param("405 Method Not Allowed", {"REQUEST_METHOD": "GET"}, id="no POST"),
        pytest.param(
            "413 Request Entity Too Large", {"CONTENT_LENGTH": "9" * 30}, id="too much announced"
        ),
        pytest.param(
            "413 Request Entity Too Large",
            {"body": LARGE, "CONTENT_LENGTH": None, "wsgi.input_terminated": True},
            id="too much in chunks",
        ),
    ],
)
def test_request_is_answered(client: WsgiClient, status: str, asked: dict[str, Any]) -> None:
    assert (
        ask(client, **asked)[0].replace("Content Too Large", "Request Entity Too Large") == status
    )


def test_secret_of_a_handshake_is_echoed(client: WsgiClient) -> None:
    status, headers = ask(client, b"", PATH_INFO=f"/{RESERVED}", HTTP_X_HOOK_SECRET="s" * 32)
    assert (status, headers["X-Hook-Secret"]) == ("200 OK", "s" * 32)


# Handlers


async def test_handlers_may_be_plain_functions(client: WsgiClient) -> None:
    seen: list[tuple[str, str]] = []

    def note(name: str, event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert client.from_thread(client.dead_letters) == []
        seen.append((name, event.resource.gid))

    client.on("task", name="again")(functools.partial(note, "again"))
    client.on("task")(functools.partial(note, "plain"))

    @client.on("task")
    async def wait(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(("async", event.resource.gid))

    body = delivery()
    signed = {"HTTP_X_HOOK_SIGNATURE": sign(body, SECRET)}
    status, _ = await asyncio.to_thread(lambda: ask(client, body, **signed))
    assert status == "200 OK"
    await until(lambda: len(seen) == 3)
    assert seen == [("again", "1"), ("plain", "1"), ("async", "1")]


async def test_plain_handler_that_fails_is_tried_again(
    client: WsgiClient, store: MemoryStore
) -> None:
    calls: list[str] = []
    failures: list[str] = []

    @client.on_failure
    def tell(failure: Failure) -> None:
        failures.append(f"{failure.handler}: {failure.error}")

    @client.on("task")
    def fail_once(event: Event) -> None:
        calls.append(event.resource.gid)
        if len(calls) == 1:
            msg = "not now"
            raise OSError(msg)

    await put(store, "c" * 32, event(1))
    await until(lambda: len(calls) == 2)
    assert failures == [f"{__name__}:{fail_once.__qualname__}: not now"]


async def test_plain_handler_that_takes_too_long_has_failed_when_it_ends(
    client: WsgiClient, store: MemoryStore
) -> None:
    failures: list[BaseException] = []
    under_way, most = 0, 0

    @client.on_failure
    def tell(failure: Failure) -> None:
        failures.append(failure.error)

    @client.on("task")
    def sleep_once(event: Event) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if not failures:
            time.sleep(0.2)
        under_way -= 1

    await put(store, "c" * 32, event(1))
    await until(lambda: bool(failures))
    assert isinstance(failures[0], TimeoutError)
    for _ in range(500):
        if await is_empty(store):
            break
        await asyncio.sleep(0.01)
    assert await is_empty(store)
    assert most == 1


def test_handler_that_takes_no_argument_is_refused(store: MemoryStore) -> None:
    client = make(store)
    for register, argument in (
        (client.on("task"), "the event"),
        (client.on_failure, "the failure"),
        (client.on_notice(), "the notice"),
    ):
        with pytest.raises(TypeError, match=f"must take one argument, {argument}"):
            register(lambda: None)  # type: ignore[type-var]
    with pytest.raises(TypeError):
        client.on("task")(5)  # type: ignore[type-var]


def test_plain_handler_that_is_registered_twice_is_one(store: MemoryStore) -> None:
    client = make(store)

    def note(event: Event) -> None: ...

    client.on("task", action="added")(note)
    client.on("task", action="changed")(note)
    assert len(client._router._handlers) == 1


# The thread


def test_calls_come_back_with_what_they_return_or_raise(client: WsgiClient) -> None:
    assert client.from_thread(client.stats).waiting == 0
    with pytest.raises(TypeError, match="limit"):
        client.from_thread(client.dead_letters, limit="1")  # type: ignore[arg-type]


async def test_call_from_its_own_thread_is_refused(client: WsgiClient, store: MemoryStore) -> None:
    errors: list[BaseException] = []

    @client.on("task")
    async def call(event: Event) -> None:
        try:
            client.from_thread(client.stats)
        except RuntimeError as error:
            errors.append(error)

    await put(store, "c" * 32, event(1))
    await until(lambda: bool(errors))
    assert "own thread" in str(errors[0])


def test_it_starts_again_after_it_was_stopped(store: MemoryStore) -> None:
    client = make(store)
    with pytest.raises(RuntimeError, match="not started"):
        ask(client)
    for _ in range(2):
        client.start()
        client.start()
        assert ask(client, **SIGNED)[0] == "200 OK"
        client.stop()
        client.stop()
        assert not [each for each in threading.enumerate() if each.name == "asana-webhooks"]


def test_start_raises_what_entering_raises(tmp_path: Path) -> None:
    client = WsgiClient(
        "a-token",
        public_url="https://hooks.example.com",
        store=f"sqlite:///{tmp_path}/none/hooks.db",
        serve=False,
    )
    with pytest.raises(Exception, match="none"):
        client.start()
    with pytest.raises(RuntimeError, match="not started"):
        client.from_thread(client.stats)


def test_client_with_a_receiver_of_its_own_is_refused(store: MemoryStore) -> None:
    client = WsgiClient("a-token", public_url="https://hooks.example.com", store=store)
    with pytest.raises(ValueError, match="serve=False"):
        client.start()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_process_that_was_forked_says_what_to_do(client: WsgiClient) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            client.from_thread(client.stats)
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"start it in each process" in os.read(reading, 1000)


# gunicorn


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no gunicorn")
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
async def test_two_workers_have_one_webhook_and_lose_no_event(
    asana: AsanaSimulator, tmp_path: Path, free_port: int, *, preload: bool
) -> None:
    (tmp_path / "hooks.py").write_text(
        "import os\n"
        "from asana_webhooks.wsgi import WsgiClient\n"
        "url = os.environ['PUBLIC_URL'] + '/asana'\n"
        "client = WsgiClient(public_url=url, serve=False, first_delay=0.1)\n"
        "client.keep(os.environ['ASANA_PROJECT'])\n"
        "@client.on('task', action='added')\n"
        "def note(event):\n"
        "    with open('seen', 'a') as file:\n"
        "        print(event.resource.gid, os.getpid(), file=file)\n"
        "app = client.wsgi\n"
    )
    (tmp_path / "gunicorn.conf.py").write_text(
        "def post_worker_init(worker):\n    import hooks\n    hooks.client.start()\n"
    )
    url = f"http://127.0.0.1:{free_port}"
    settings = {
        "ASANA_ACCESS_TOKEN": "a-token",
        "ASANA_PROJECT": asana.project,
        "ASANA_BASE_URL": asana.base_url,
        "PUBLIC_URL": url,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{free_port}"),
        *(["--preload"] if preload else []),
        "hooks:app",
        cwd=tmp_path,
        env=os.environ | settings,
        start_new_session=True,
    )
    seen = tmp_path / "seen"

    def lines() -> list[list[str]]:
        return [line.split() for line in seen.read_text().splitlines()] if seen.exists() else []

    def handled() -> set[str]:
        return {gid for gid, _ in lines()}

    tasks: set[str] = set()
    try:
        await until(lambda: bool(asana.webhooks))
        for number in range(3):
            for _ in range(5):
                tasks.add(await asana.create_task("Fix the login", project=asana.project))
            await until(lambda: bool(lines()))
            if number < 2:
                victim = int(lines()[-1][1])
                os.kill(victim, signal.SIGTERM)  # another one begins, as after a deployment
        await until(lambda: handled() == tasks)
        assert len(asana.webhooks) == 1
        process.terminate()
        with guard():
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
