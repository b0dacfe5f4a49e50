"""Asana webhooks for asyncio: handshake, signatures, durable delivery, and a local Asana."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import (
    AccountTokenError,
    ApiError,
    AsanaWebhooksError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    DuplicateWebhookError,
    EstablishmentError,
    HandshakeMismatchError,
    HandshakeMissingError,
    LoginRequiredError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    SignatureError,
    StoreError,
)
from .models import (
    Change,
    Continuity,
    DeadLetter,
    Event,
    Gap,
    Notice,
    Page,
    Resource,
    Source,
    Webhook,
    WebhookFilter,
)
from .router import Failure, GiveUp, Router, TryAgain
from .signature import sign, verify_signature
from .telemetry import Stats, WebhookStats

if TYPE_CHECKING:
    from .account import Account
    from .api import WebhooksApi
    from .client import WebhooksClient
    from .serving import serve
    from .stores.memory import MemoryStore
    from .stores.postgres import PostgresStore
    from .stores.redis import RedisStore
    from .stores.sqlite import SqliteStore

__all__ = [
    "Account",
    "AccountTokenError",
    "ApiError",
    "AsanaWebhooksError",
    "AuthenticationError",
    "BadRequestError",
    "Change",
    "ConnectionFailedError",
    "Continuity",
    "DeadLetter",
    "DecodeError",
    "DuplicateWebhookError",
    "EstablishmentError",
    "Event",
    "Failure",
    "Gap",
    "GiveUp",
    "HandshakeMismatchError",
    "HandshakeMissingError",
    "LoginRequiredError",
    "MemoryStore",
    "NotFoundError",
    "Notice",
    "Page",
    "PermissionDeniedError",
    "PostgresStore",
    "RateLimitedError",
    "RedisStore",
    "Resource",
    "Router",
    "ServerError",
    "SignatureError",
    "Source",
    "SqliteStore",
    "Stats",
    "StoreError",
    "TryAgain",
    "Webhook",
    "WebhookFilter",
    "WebhookStats",
    "WebhooksApi",
    "WebhooksClient",
    "__version__",
    "serve",
    "sign",
    "verify_signature",
]

_LAZY = {
    "Account": ".account",
    "MemoryStore": ".stores.memory",
    "PostgresStore": ".stores.postgres",
    "RedisStore": ".stores.redis",
    "SqliteStore": ".stores.sqlite",
    "WebhooksApi": ".api",
    "WebhooksClient": ".client",
    "serve": ".serving",
}


def __getattr__(name: str) -> object:
    """Import what needs httpx, aiohttp or sqlite3 when it is first used."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
