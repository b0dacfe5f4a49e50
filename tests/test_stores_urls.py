"""Stores by URL, and the keys that encrypt what is in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from asana_webhooks import MemoryStore, SqliteStore, WebhooksClient
from asana_webhooks.models import Route
from asana_webhooks.stores import Store
from asana_webhooks.stores import urls as module
from asana_webhooks.stores.urls import KEYS_VARIABLE, open_store

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
SECRET = "genuine-secret-0123456789"


@pytest.fixture(autouse=True)
def no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASANA_WEBHOOKS_ENCRYPTION_KEYS", raising=False)


class Opened:
    """Stands for a store: what it was opened with."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __call__(self, address: str, *, encryption_keys: Sequence[str] | None = None) -> Any:
        return self._kind, address, list(encryption_keys or ())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("PostgresStore", "RedisStore", "SqliteStore"):
        monkeypatch.setattr(module, kind, Opened(kind))


TABLE = [
    pytest.param("sqlite:///relative.db", "SqliteStore", "relative.db", id="relative file"),
    pytest.param("sqlite:////srv/absolute.db", "SqliteStore", "/srv/absolute.db", id="absolute"),
    pytest.param("redis://h:6379/0", "RedisStore", "redis://h:6379/0", id="redis"),
    pytest.param("rediss://u:p@h", "RedisStore", "rediss://u:p@h", id="redis with TLS"),
    pytest.param("unix:///run/v.sock", "RedisStore", "unix:///run/v.sock", id="redis socket"),
    pytest.param("postgresql://h/d", "PostgresStore", "postgresql://h/d", id="postgresql"),
    pytest.param("postgres://h/d", "PostgresStore", "postgres://h/d", id="postgres"),
    pytest.param(" postgres://h/d\n", "PostgresStore", "postgres://h/d", id="in blanks"),
    pytest.param("REDIS://H:1/0", "RedisStore", "redis://H:1/0", id="scheme in capitals"),
]


@pytest.mark.parametrize(("url", "kind", "address"), TABLE)
@pytest.mark.usefixtures("opened")
def test_url_names_a_store_and_its_address(url: str, kind: str, address: str) -> None:
    assert open_store(url) == (kind, address, [])  # type: ignore[comparison-overlap] # stand-ins


@pytest.mark.parametrize(("url", "kind", "address"), TABLE)
@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        pytest.param([NEW, OLD], "", [NEW, OLD], id="given"),
        pytest.param(None, f"{NEW},{OLD}", [NEW, OLD], id="of the environment"),
        pytest.param(None, f" {NEW} , {OLD},\n", [NEW, OLD], id="with blanks"),
        pytest.param(None, " , ", [], id="none at all"),
        pytest.param([NEW], OLD, [NEW], id="given before the environment's"),
        pytest.param([], OLD, [], id="given that there are none"),
    ],
)
@pytest.mark.usefixtures("opened")
def test_keys_go_to_each_store_that_outlives_the_process(
    url: str,
    kind: str,
    address: str,
    given: list[str] | None,
    variable: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, variable)
    store: Any = open_store(url, encryption_keys=given)
    assert store == (kind, address, expected)


@pytest.mark.parametrize(
    ("query", "named"),
    [("mode=rw", "'mode'"), ("mode=ro&cache=shared", "'mode' and 'cache'"), ("immutable", "'imm")],
)
def test_parameter_of_a_files_url_is_refused_and_named(query: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"takes no parameters, and this one has {named}"):
        open_store(f"sqlite:///store.db?{query}")


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("blank", ["", " "])
def test_quotes_around_a_url_are_named_and_the_url_is_not(quote: str, blank: str) -> None:
    with pytest.raises(ValueError, match="store is in quotes") as refused:
        open_store(f"{blank}{quote}postgresql://u:s3cret@h/d{quote}")
    assert "s3cret" not in str(refused.value)


def test_memory_needs_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, NEW)
    assert isinstance(open_store("memory:"), MemoryStore)
    assert isinstance(open_store(" Memory: "), MemoryStore)
    assert isinstance(open_store("memory:", encryption_keys=[NEW]), MemoryStore)


@pytest.mark.parametrize(
    "url",
    ["sqlite:///store.db", "redis://127.0.0.1:6379/0", "postgresql://127.0.0.1/hooks"],
)
@pytest.mark.parametrize("where", ["given", "environment"])
def test_bad_keys_are_refused_at_construction_without_repeating_them(
    url: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [NEW, "canary"]
    if where == "environment":
        monkeypatch.setenv(KEYS_VARIABLE, ",".join(keys))
    with pytest.raises(ValueError, match="key") as caught:
        open_store(url, encryption_keys=keys if where == "given" else None)
    assert "canary" not in str(caught.value)
    assert NEW not in str(caught.value)


# Through the client


def client_of(store: str | Store, **options: Any) -> WebhooksClient:
    return WebhooksClient("t", public_url="https://h.example", store=store, port=0, **options)


async def remember(store: Store) -> None:
    route = Route(id="r1", target="https://h.example/r1", resource="12")
    assert await store.reserve(route, ttl=60)
    assert await store.add_candidate("r1", SECRET)
    assert await store.confirm("r1", gid="77", secret=SECRET)


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("where", ["given", "environment"])
async def test_client_encrypts_secrets_with_the_keys_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    keys = [NEW] if where == "given" else None
    if where == "environment":
        monkeypatch.setenv(KEYS_VARIABLE, NEW)
    client = client_of(f"sqlite:///{tmp_path}/store.db", encryption_keys=keys)
    async with client:
        assert client._components is not None
        await remember(client._components.store)
    assert SECRET.encode() not in content_of(tmp_path)
    async with SqliteStore(tmp_path / "store.db", encryption_keys=[NEW]) as store:
        found = await store.get_route("r1")
    assert found is not None
    assert found.secret == SECRET


def test_keys_beside_a_store_object_are_refused() -> None:
    with pytest.raises(ValueError, match="a store object is given its own"):
        client_of(MemoryStore(), encryption_keys=[NEW])
    client_of(MemoryStore())


def test_keys_of_the_environment_do_not_concern_a_store_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, "canary")
    client_of(MemoryStore())
