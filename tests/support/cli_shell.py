"""The command line beside a local Asana, which runs in a thread of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from click.testing import CliRunner, Result

from asana_webhooks import PermissionDeniedError, WebhooksApi, WebhooksClient
from asana_webhooks.cli.app import cli
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator, WebhookRecord
from asana_webhooks.stores import Store
from asana_webhooks.stores.sqlite import SqliteStore
from support.ports import free_tcp_port

T = TypeVar("T")

TOKENS = ("ASANA_ACCESS_TOKEN", "ASANA_PAT", "ASANA_PERSONAL_ACCESS_TOKEN")


class Shell:
    """Runs commands with a local Asana, a store in a file, and a free port."""

    def __init__(self, portal: BlockingPortal, asana: AsanaSimulator, directory: Path) -> None:
        self.portal, self.asana = portal, asana
        self.file = directory / "store.db"
        self.port = free_tcp_port()
        self.public_url = f"http://127.0.0.1:{self.port}/asana"
        self.environment: dict[str, str | None] = {
            **dict.fromkeys(TOKENS),
            "ASANA_ACCESS_TOKEN": "a-token",
            "ASANA_BASE_URL": asana.base_url,
            "ASANA_WEBHOOKS_PUBLIC_URL": self.public_url,
            "ASANA_WEBHOOKS_STORE": f"sqlite:///{self.file}",
            "XDG_CONFIG_HOME": str(directory),
        }

    def run(self, *arguments: str, answer: str | bytes = "", **environment: Any) -> Result:
        known = self.environment | environment
        return CliRunner().invoke(cli, arguments, env=known, input=answer)

    def lines(self, *arguments: str, **options: Any) -> list[str]:
        result = self.run(*arguments, **options)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(*arguments, "--json")]

    def failure(self, *arguments: str, status: int = 1, **options: Any) -> str:
        """Return the one line on standard error with which a command failed."""
        result = self.run(*arguments, **options)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        *_, line = result.stderr.splitlines()
        assert line.startswith("Error: ")
        return line

    def establish(self, *options: str) -> str:
        """Return the gid of a new webhook on the project; nobody receives for it any more."""
        (record,) = self.records(
            "establish", self.asana.project, "--port", str(self.port), *options
        )
        gid: str = record["gid"]
        return gid

    def establish_and_settle(self, store: str) -> str:
        """Return the gid of a new webhook whose first heartbeat was answered."""
        with self.portal.wrap_async_context_manager(self.client(store=store)):
            gid = self.establish("--no-receiver", "--store", store)
            self.portal.call(self.asana.settled)
        return gid

    def record(self, gid: str) -> WebhookRecord:
        return self.asana.webhooks[gid]

    def store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def do() -> T:
            async with SqliteStore(self.file) as store:
                return await work(store)

        return asyncio.run(do())

    def routes(self) -> list[Route]:
        return self.store(lambda store: store.list_routes())

    def secrets(self) -> list[str]:
        """Return whatever no command may show."""
        known = [(each.secret, each.target.rpartition("/")[2]) for each in self._webhooks()]
        return ["a-token", *(part for parts in known for part in parts)]

    def _webhooks(self) -> list[WebhookRecord]:
        return list(self.asana.webhooks.values())

    def client(self, **options: Any) -> WebhooksClient:
        """Return a client on the same Asana, store and port."""
        known = {
            "base_url": self.asana.base_url,
            "public_url": self.public_url,
            "store": f"sqlite:///{self.file}",
            "port": self.port,
        }
        return WebhooksClient("a-token", **{**known, **options})


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(AsanaSimulator(retry_delay=0.01, retry_after=0)) as asana,
    ):
        yield Shell(portal, asana, tmp_path)


def refuse_to_delete(monkeypatch: pytest.MonkeyPatch, gid: str) -> None:
    """Make Asana refuse to delete one webhook."""
    delete = WebhooksApi.delete_webhook

    async def delete_others(api: WebhooksApi, wanted: str) -> None:
        if wanted == gid:
            raise PermissionDeniedError(403, ("Forbidden",))
        await delete(api, wanted)

    monkeypatch.setattr(WebhooksApi, "delete_webhook", delete_others)
