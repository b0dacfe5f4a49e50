"""Stores by their URLs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import Store
from .memory import MemoryStore
from .postgres import PostgresStore
from .redis import RedisStore
from .sqlite import SqliteStore

__all__ = ["KEYS_VARIABLE", "open_store", "store_of"]

KEYS_VARIABLE = "ASANA_WEBHOOKS_ENCRYPTION_KEYS"
"""The environment variable with encryption keys, the newest first, between commas."""


def open_store(url: str, *, encryption_keys: Sequence[str] | None = None) -> Store:
    """Return the store that a URL names, not entered yet.

    ``memory:``, ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``; with the extra
    ``redis``, ``redis://host:6379/0`` (``rediss://``, ``unix://``); with the extra ``postgres``,
    ``postgresql://host/database``. ``encryption_keys``, the newest first, encrypt the secrets that
    outlive the process; None takes them from ``ASANA_WEBHOOKS_ENCRYPTION_KEYS``, and without that
    variable they are kept in clear. The scheme may be in any case, and blanks around the URL do
    not count. Raises ValueError for any other URL, and for bad keys.
    """
    if url.strip()[:1] in {"'", '"'}:
        msg = "store is in quotes, which belong to a shell or a file of settings: leave them out"
        raise ValueError(msg)
    scheme, colon, rest = url.strip().partition(":")
    scheme = scheme.lower()
    url = f"{scheme}{colon}{rest}"
    if url == "memory:":
        return MemoryStore()
    keys = _keys_of_environment() if encryption_keys is None else encryption_keys
    if scheme == "sqlite" and rest.startswith("///") and len(rest) > 3:
        return SqliteStore(_file_of(rest[3:]), encryption_keys=keys)
    if scheme in ("redis", "rediss", "unix"):
        return RedisStore(url, encryption_keys=keys)
    if scheme in ("postgresql", "postgres"):
        return PostgresStore(url, encryption_keys=keys)
    msg = (
        "store must be 'memory:', 'sqlite:///file.db', 'redis://host', 'postgresql://host/database'"
        " or a store object"
    )
    raise ValueError(msg)


def _file_of(path: str) -> str:
    """Return the path. Raises ValueError for parameters, which would become a part of the name."""
    file, _, query = path.partition("?")
    if query:
        names = " and ".join(repr(part.partition("=")[0]) for part in query.split("&"))
        msg = f"a store's sqlite:/// URL takes no parameters, and this one has {names}"
        raise ValueError(msg)
    return file


def store_of(store: str | Store, *, encryption_keys: Sequence[str] | None) -> Store:
    """Return the store object, or the one that a URL names.

    Raises ValueError like ``open_store``, and for keys beside an object, which has its own.
    """
    if isinstance(store, str):
        return open_store(store, encryption_keys=encryption_keys)
    if encryption_keys is not None:
        msg = "encryption_keys go with a store's URL; a store object is given its own"
        raise ValueError(msg)
    return store


def _keys_of_environment() -> list[str]:
    return [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
