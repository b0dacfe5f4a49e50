"""``asana-webhooks establish``: a new webhook, its handshake answered, its secret in the store."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ..models import Webhook, WebhookFilter
from .access import Access
from .options import FILTER_SYNTAX, FILTERS, JSON, PUBLIC_URL, STORE, asana_options
from .output import warnings_shown
from .webhooks import print_webhook

if TYPE_CHECKING:
    import httpx

    from .._accounts import LoadToken
    from ..account import Account
    from ..client import WebhooksClient

__all__ = ["EstablishOptions", "command", "establish_options"]

T = TypeVar("T")

SERVE_NEXT = "Its secret is in the store. `asana-webhooks serve`, with that store, receives for it."
PRUNE_NEXT = "Interrupted. Should a webhook be left at Asana, `asana-webhooks prune` finds it."


def establish_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which webhook, and where its handshake is answered."""
    for option in (
        JSON,
        asana_options,
        click.option(
            "--timeout",
            type=click.FloatRange(0, 600, min_open=True),
            default=60.0,
            show_default=True,
            help="Seconds for the create call.",
        ),
        click.option(
            "--receiver/--no-receiver",
            default=True,
            help="Answer the handshake here, or where one with this store serves already.",
        ),
        click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True),
        click.option("--host", default="127.0.0.1", show_default=True),
        click.option("--account", default="", help="The name of the token's user in the store."),
        STORE,
        PUBLIC_URL,
        FILTERS,
        click.argument("resource"),
    ):
        command = option(command)
    return command


@click.command("establish", epilog=FILTER_SYNTAX)
@establish_options
def command(**options: Any) -> None:
    """Make a new webhook, its handshake answered by a receiver of its own.

    RESOURCE is the gid of what it watches: a project, a task, a workspace, ...

    Ctrl-C and SIGTERM leave no webhook behind, or name the one that could not be deleted.
    """
    EstablishOptions(**options).run(_establish)


async def _establish(account: Account, resource: str, **options: Any) -> Webhook:
    return await account.establish(resource, **options)


class EstablishOptions(NamedTuple):
    """The options of ``establish``, ``ensure`` and ``follow``."""

    resource: str
    filters: tuple[WebhookFilter, ...]
    public_url: str
    store: str
    host: str
    port: int
    receiver: bool
    timeout: float
    account: str
    access: Access
    as_json: bool

    def run(self, work: Callable[..., Awaitable[Webhook]]) -> None:
        """Have an account establish or ensure the webhook, then print it. Raises like ``work``."""
        webhook = self.work(work)
        print_webhook(webhook, held=True, as_json=self.as_json)
        if self.receiver:
            click.echo(SERVE_NEXT, err=True)

    def work(self, work: Callable[..., Awaitable[T]]) -> T:
        """Return what comes of some work that is given an account, which may establish webhooks.

        Raises UsageError for a store that would forget the secret, and ClickException when the
        receiver's address is taken.
        """
        import asyncio

        from .._signals import terminable

        if self.store == "memory:":
            msg = (
                "a store in memory ends with this command, and the secret with it: name a lasting"
                " one"
            )
            raise click.UsageError(msg)
        with warnings_shown(), warnings.catch_warnings(), terminable():
            warnings.filterwarnings("ignore", "Asana has no ")  # said when the filter was read
            try:
                return asyncio.run(self._work(work))
            except KeyboardInterrupt:  # cancelling undid it, unless Asana could not be reached
                click.echo(f"\n{PRUNE_NEXT}", err=True)
                raise

    async def _work(self, work: Callable[..., Awaitable[T]]) -> T:
        filters = self.filters or None
        try:
            async with self._client() as client:
                account = client.account(self.account)
                return await work(account, self.resource, filters=filters, timeout=self.timeout)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            msg = (
                f"port {self.port} of {self.host} is taken: if a receiver with this store is"
                " serving there, say --no-receiver; else choose another --port"
            )
            raise click.ClickException(msg) from error

    def _client(self) -> WebhooksClient:
        """Return a client that can establish it; it looks after nothing later."""
        from ..client import WebhooksClient

        listening: dict[str, Any] = {"host": self.host, "port": self.port}
        token = self.access.token()
        return WebhooksClient(
            **({"tokens": _loading(token)} if self.account else {"token": token}),
            base_url=self.access.base_url,
            public_url=self.public_url,
            store=self.store,
            serve=self.receiver,
            **(listening if self.receiver else {}),
            look_after=None,
        )


def _loading(token: str | httpx.Auth | None) -> LoadToken:
    """Return what loads the token of a command's one account. Raises ValueError for none."""
    from .._asana_transport import find_auth

    auth = find_auth(token, None)

    async def load(_: str) -> httpx.Auth:
        assert auth is not None  # noqa: S101 - it is, without a client; for the type checker
        return auth

    return load
