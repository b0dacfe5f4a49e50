"""Every option of every constructor, and what it refuses, by name and before any I/O."""

import inspect
import logging
import math
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from asana_webhooks import MemoryStore, WebhooksApi, WebhooksClient
from asana_webhooks import client as client_module
from asana_webhooks._options import MAX_SOCKET_PATH
from asana_webhooks.auth import AsanaOAuth, Token, TokenFile
from asana_webhooks.models import WebhookFilter
from asana_webhooks.stores.postgres import PostgresStore
from asana_webhooks.stores.redis import RedisStore
from asana_webhooks.stores.sqlite import SqliteStore

Make = Callable[..., object]


def client(**options: Any) -> WebhooksClient:
    defaults = {"token": "a-token", "public_url": "https://hooks.example.com", "store": "memory:"}
    return WebhooksClient(**(defaults | options))


def api(**options: Any) -> WebhooksApi:
    return WebhooksApi(**({"token": "a-token"} | options))


def oauth(**options: Any) -> AsanaOAuth:
    return AsanaOAuth(**({"client_id": "an-app"} | options))


def token(**options: Any) -> Token:
    return Token(**({"access_token": "a-token"} | options))


def token_file(**options: Any) -> TokenFile:
    return TokenFile(**options)


def memory_store(**options: Any) -> MemoryStore:
    return MemoryStore(**options)


def sqlite_store(**options: Any) -> SqliteStore:
    return SqliteStore(**({"path": "hooks.db"} | options))


def redis_store(**options: Any) -> RedisStore:
    return RedisStore("redis://127.0.0.1/0", **options)


def postgres_store(**options: Any) -> PostgresStore:
    return PostgresStore("postgresql://127.0.0.1/hooks", **options)


NO_CHARACTERS = ("\0", "a\0b", "\ud800")  # that anything out there could hold
NO_TEXTS = (7, True, b"text", ["text"], object(), *NO_CHARACTERS)
NO_NUMBERS = ("1", b"1", [1], True, object())
NO_COUNTS = (*NO_NUMBERS, None, 0, -1, 2**31, 10**5000, 1.5, math.nan, math.inf)
NO_SECONDS = (*NO_NUMBERS, 0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, 10**9 + 1, 10**5000)
NO_FLAGS: tuple[Any, ...] = (0, 1, None, "yes", [])
NO_NAMES = ("one", b"one", 7, [1], ["one", None], ["\ud800"], object())
NO_KEYS = (*NO_NAMES, [""], ["short"], ["é" * 44], "", b"", 0, False)


def shown(value: object) -> str:
    """Return what tells a value in the table from the others."""
    return (
        f"{value.bit_length()} bits" if isinstance(value, int) and value > 2**64 else ascii(value)
    )


WRONG: dict[tuple[Make, str], tuple[Any, ...]] = {
    (client, "token"): (7, b"a-token", True, "two words"),
    (client, "tokens"): (7, True, "a-token", str, print, object()),
    (client, "public_url"): (*NO_TEXTS, "", "hooks"),
    (client, "store"): (None, Path("hooks.db"), 7, True, "", "hooks.db", object()),
    (client, "encryption_keys"): NO_NAMES,
    (client, "serve"): NO_FLAGS,
    (client, "host"): NO_TEXTS,
    (client, "port"): (*NO_NUMBERS, -1, 65_536, 80.0, math.nan),
    (client, "reuse_port"): NO_FLAGS,
    (client, "unix_socket"): (7, True, b"path", object(), *NO_CHARACTERS, "é" * 54, Path("\0")),
    (client, "ssl_context"): (7, True, "context", ssl.SSLContext),
    (client, "base_url"): (*NO_TEXTS, "", "asana"),
    (client, "workspace"): (7, True, "", "two words", b"1"),
    (client, "http_client"): (7, True, "client", httpx.Client(), object()),
    (client, "max_body"): NO_COUNTS,
    (client, "max_connections"): NO_COUNTS,
    (client, "keepalive_timeout"): NO_SECONDS,
    (client, "max_attempts"): NO_COUNTS,
    (client, "first_delay"): (*NO_SECONDS, None, 601.0),
    (client, "longest_delay"): (*NO_SECONDS, None, 0.5),
    (client, "handler_timeout"): NO_SECONDS,
    (client, "concurrency"): NO_COUNTS,
    (client, "order"): (*NO_TEXTS, None, "", "RESOURCE", "task"),
    (client, "answer_gone"): NO_FLAGS,
    (client, "look_after"): NO_SECONDS,
    (client, "reconcile"): NO_SECONDS,
    (client, "calls_per_minute"): tuple(value for value in NO_COUNTS if value is not None),
    (client, "ping_pong_guard"): NO_FLAGS,
    (client, "telemetry"): (7, True, "telemetry", object()),
    (api, "token"): (7, b"a-token", True, ""),
    (api, "base_url"): (*NO_TEXTS, "", "asana"),
    (api, "http_client"): (7, True, "client", httpx.Client(), object()),
    (api, "calls_per_minute"): tuple(value for value in NO_COUNTS if value is not None),
    (oauth, "client_id"): (7, True, None, "", b"an-app"),
    (oauth, "client_secret"): (7, True, "", b"secret"),
    (oauth, "token"): (7, True, "a-token", {"access_token": "a-token"}, Path("token.json")),
    (oauth, "save"): (7, True, "save"),
    (oauth, "redirect_uri"): (7, True, None, "", b"https://example.com"),
    (oauth, "scopes"): NO_NAMES,
    (oauth, "base_url"): (*NO_TEXTS, "", "asana"),
    (oauth, "http_client"): (7, True, "client", httpx.Client(), object()),
    (token, "access_token"): (7, True, None, b"a-token", "", "two words"),
    (token, "refresh_token"): (7, True, b"a-token"),
    (token, "expires_at"): (7, True, "tomorrow", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive
    (token, "user"): (7, True, "me", {"gid": "1"}),
    (token_file, "path"): (7, True, None, object()),
    (memory_store, "max_waiting"): NO_COUNTS,
    (sqlite_store, "path"): (7, True, None, b"hooks.db", object(), "", ":memory:", "a\0b"),
    (sqlite_store, "max_waiting"): NO_COUNTS,
    (sqlite_store, "encryption_keys"): NO_KEYS,
    (redis_store, "prefix"): (*NO_TEXTS, None, "", ":"),
    (redis_store, "max_waiting"): NO_COUNTS,
    (redis_store, "encryption_keys"): NO_KEYS,
    (postgres_store, "schema"): (*NO_TEXTS, None, "", "two words", "pg_own"),
    (postgres_store, "max_waiting"): NO_COUNTS,
    (postgres_store, "encryption_keys"): NO_KEYS,
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASANA_BASE_URL", "ASANA_WEBHOOKS_ENCRYPTION_KEYS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        pytest.param(make, name, values, id=f"{make.__name__}-{name}")
        for (make, name), values in WRONG.items()
    ],
)
def test_option_that_cannot_work_is_refused_by_its_name(
    make: Make, name: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        message, case = refused(make, name, value), shown(value)
        assert re.search(rf"\b{name}\b", message), case
        # Not one that a function below raised about a parameter of its own.
        assert not message.startswith(("expected", "unsupported", "object")), case
        assert len(message) < 200, case


def refused(make: Make, name: str, value: object) -> str:
    """Return what is told when this value is refused: nothing, when it is taken."""
    try:
        make(**{name: value})
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError):
            raise
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (client, WebhooksClient),
        (api, WebhooksApi),
        (oauth, AsanaOAuth),
        (token, Token),
        (token_file, TokenFile),
    ],
)
def test_no_option_is_left_out(make: Make, cls: type) -> None:
    names = set(inspect.signature(cls).parameters)
    assert {name for of, name in WRONG if of is make} == names
    if cls is WebhooksClient:
        assert set(client_module._OPTIONS) == names


@pytest.mark.parametrize("value", ["a-key", "a-token"])
def test_what_is_refused_is_not_quoted(value: str) -> None:
    for make, name in ((client, "encryption_keys"), (oauth, "token")):
        with pytest.raises((ValueError, TypeError)) as caught:
            make(**{name: value})
        assert value not in str(caught.value)


def test_what_may_be_given_is_taken(tmp_path: Path) -> None:
    client(
        store=MemoryStore(),
        host="0.0.0.0",
        port=0,
        ssl_context=ssl.create_default_context(),
        workspace="1331",
        http_client=httpx.AsyncClient(),
        keepalive_timeout=1,
        first_delay=10**9,
        longest_delay=1e9,
        look_after=None,
        max_body=1,
    )
    client(unix_socket=tmp_path / "socket")
    client(unix_socket="s" * MAX_SOCKET_PATH)
    oauth(scopes=["default"], token=TokenFile(tmp_path / "token.json"))


# Options that go together, or not


@pytest.mark.parametrize(
    "option",
    [
        {"host": "127.0.0.1"},
        {"port": 8080},
        {"port": 0},
        {"reuse_port": True},
        {"unix_socket": "socket"},
        {"ssl_context": ssl.create_default_context()},
    ],
    ids=["host", "port", "any port", "reuse_port", "unix_socket", "ssl_context"],
)
def test_option_of_a_receiver_is_refused_where_there_is_none(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"leave out {next(iter(option))}: with serve=False"):
        client(serve=False, **option)


@pytest.mark.parametrize("option", [{"host": "0.0.0.0"}, {"port": 8080}, {"reuse_port": True}])
def test_unix_socket_is_no_port(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"leave out {next(iter(option))}: unix_socket"):
        client(unix_socket="socket", **option)


# Where Asana is


@pytest.mark.parametrize("make", [client, oauth])
def test_base_url_comes_from_the_environment_when_it_is_not_given(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(made: Any) -> str:
        return str(made._transport.base_url if make is client else made.authorization_url().url)

    monkeypatch.setenv("ASANA_BASE_URL", "http://127.0.0.1:8787/api/1.0")
    assert asked(make()).startswith("http://127.0.0.1:8787/")
    assert asked(make(base_url="https://asana.example/api/1.0")).startswith("https://asana.example")
    monkeypatch.setenv("ASANA_BASE_URL", "")
    assert asked(make()).startswith("https://app.asana.com/")


def test_base_url_of_the_environment_that_cannot_work_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASANA_BASE_URL", "127.0.0.1:8787")
    with pytest.raises(ValueError, match="^ASANA_BASE_URL must be http"):
        api()
    monkeypatch.setenv("ASANA_BASE_URL", "http://asana/\udcff")  # a byte that is no UTF-8
    with pytest.raises(ValueError, match="^ASANA_BASE_URL must be http"):
        api()


def test_local_address_is_good_for_a_local_asana_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="base_url or set ASANA_BASE_URL"):
        client(public_url="http://localhost:8080")
    monkeypatch.setenv("ASANA_BASE_URL", "http://127.0.0.1:8787/api/1.0")
    client(public_url="http://localhost:8080")


# What calls are given


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda c: c.get_webhook("1", opt_fields="target"), "opt_fields"),
        (lambda c: c.get_webhook("1", opt_fields=[1]), "opt_fields"),
        (lambda c: c.get_webhooks("1", limit=True), "limit"),
        (lambda c: c.get_webhooks("1", limit="5"), "limit"),
        (lambda c: c.get_webhooks("1", offset=5), "offset"),
        (lambda c: c.create_webhook("1", 7), "target"),
        (lambda c: c.create_webhook("1", "https://x", filters=WebhookFilter()), "filters"),
        (lambda c: c.create_webhook("1", "https://x", filters=[{}]), "filters"),
        (lambda c: c.create_webhook("1", "https://x", filters="task"), "filters"),
        (lambda c: c.create_webhook("1", "https://x", timeout="5"), "timeout"),
        (lambda c: c.create_webhook("1", "https://x", timeout=True), "timeout"),
        (lambda c: c.create_webhook("1", "https://x", timeout=10**400), "timeout"),
        (lambda c: c.create_webhook("\ud800", "https://x"), "resource"),
        (lambda c: c.create_webhook("1", "https://x/\ud800"), "target"),
        (lambda c: c.get_webhook("\ud800"), "gid"),
        (lambda c: c.get_webhook("1", opt_fields=["\ud800"]), "opt_fields"),
        (lambda c: c.get_webhooks("\ud800"), "workspace"),
        (lambda c: c.get_webhooks("1", offset="\ud800"), "offset"),
        (lambda c: c.update_webhook("1", filters=WebhookFilter()), "filters"),
        (lambda c: c.update_webhook("1", filters=None), "filters"),
        (lambda c: c.establish(["1"]), "resource"),
        (lambda c: c.ensure(["1"]), "resource"),
        (lambda c: c.establish("1", filters=WebhookFilter()), "filters"),
        (lambda c: c.ensure("1", filters=WebhookFilter()), "filters"),
        (lambda c: c.ensure("1", timeout=True), "timeout"),
        (lambda c: c.ensure("1", timeout=10**400), "timeout"),
        (lambda c: c.establish("1", timeout=10**400), "timeout"),
        (lambda c: c.dead_letters(after=1), "after"),
        (lambda c: c.dead_letters(limit=True), "limit"),
        (lambda c: c.dead_letters(limit=0), "limit"),
        (lambda c: c.dead_letters(limit=2**70), "limit"),
        (lambda c: c.get_dead_letter(1), "id"),
        (lambda c: c.get_dead_letter(["1"]), "id"),
        (lambda c: c.replay("12"), "ids"),
        (lambda c: c.replay(1), "ids"),
        (lambda c: c.discard("12"), "ids"),
        (lambda c: c.discard([1]), "ids"),
        (lambda c: c.iter_dead_letters(reason=1).__anext__(), "reason"),
        (lambda c: c.iter_dead_letters(resource=1).__anext__(), "resource"),
        (lambda c: c.iter_dead_letters(webhook=1).__anext__(), "webhook"),
        (
            lambda c: c.iter_dead_letters(buried_before=datetime(2026, 1, 1)).__anext__(),  # noqa: DTZ001 - wrong on purpose
            "buried_before",
        ),
    ],
)
async def test_argument_of_another_kind_is_refused_by_its_name(
    call: Callable[[WebhooksClient], Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(serve=False) as entered:
        with pytest.raises((TypeError, ValueError), match=rf"^{name} must be"):
            await call(entered)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_good_arguments_of_dead_letters_are_taken() -> None:
    async with client(serve=False) as entered:
        assert await entered.dead_letters(limit=1, after="") == []
        chosen = entered.iter_dead_letters(reason="failed", buried_before=datetime.now(UTC))
        assert [letter async for letter in chosen] == []
