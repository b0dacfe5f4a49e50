"""Programs as users write them, for the type checker: this file is never run."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, assert_type

import httpx
from aiohttp import web

from asana_webhooks import (
    Account,
    AccountTokenError,
    ApiError,
    AsanaWebhooksError,
    AuthenticationError,
    BadRequestError,
    Change,
    ConnectionFailedError,
    Continuity,
    DeadLetter,
    DecodeError,
    DuplicateWebhookError,
    EstablishmentError,
    Event,
    Failure,
    Gap,
    GiveUp,
    HandshakeMismatchError,
    HandshakeMissingError,
    LoginRequiredError,
    MemoryStore,
    NotFoundError,
    Notice,
    Page,
    PermissionDeniedError,
    PostgresStore,
    RateLimitedError,
    RedisStore,
    Resource,
    Router,
    ServerError,
    SignatureError,
    Source,
    SqliteStore,
    Stats,
    StoreError,
    TryAgain,
    Webhook,
    WebhookFilter,
    WebhooksApi,
    WebhooksClient,
    WebhookStats,
    __version__,
    serve,
    sign,
    verify_signature,
)
from asana_webhooks.auth import (
    OUT_OF_BAND,
    AsanaOAuth,
    Authorization,
    LoginApp,
    OAuthApp,
    Token,
    TokenFile,
    login,
)
from asana_webhooks.otel import OpenTelemetry
from asana_webhooks.protocol import Response
from asana_webhooks.simulator import (
    AsanaSimulator,
    Attempt,
    Call,
    Dropped,
    Fault,
    Handshake,
    WebhookRecord,
)
from asana_webhooks.simulator.threaded import ThreadedSimulator, threaded_simulator
from asana_webhooks.stores import Store
from asana_webhooks.telemetry import Telemetry
from asana_webhooks.testing import (
    Post,
    advance,
    drain,
    make_delivery,
    make_event,
    make_handshake,
    send,
)
from asana_webhooks.wsgi import WsgiClient


def use(*values: object) -> None: ...


version: str = __version__
use(version)


# Clients

client = WebhooksClient(public_url="https://hooks.example.com/asana")
rest_only = WebhooksClient("a-token")
with_own_auth = WebhooksClient(httpx.BasicAuth("user", "password"))
with_memory = WebhooksClient(public_url="https://hooks.example.com", store="memory:")
with_store_object = WebhooksClient(public_url="https://hooks.example.com", store=MemoryStore())
with_every_option = WebhooksClient(
    "a-token",
    public_url="https://hooks.example.com",
    store=SqliteStore("asana-webhooks.db"),
    serve=True,
    host="0.0.0.0",
    port=0,
    unix_socket=None,
    ssl_context=ssl.create_default_context(),
    base_url="https://app.asana.com/api/1.0",
    workspace="1199",
    http_client=httpx.AsyncClient(),
    max_body=1024 * 1024,
    max_connections=100,
    keepalive_timeout=15.0,
    max_attempts=3,
    first_delay=0.5,
    longest_delay=60.0,
    handler_timeout=None,
    concurrency=4,
    answer_gone=True,
    reuse_port=True,
    look_after=None,
    telemetry=OpenTelemetry(interval=5.0),
)
with_keys = WebhooksClient(
    public_url="https://hooks.example.com", store="sqlite:///hooks.db", encryption_keys=["a-key"]
)
mounted = WebhooksClient(public_url="https://hooks.example.com", serve=False)
api = WebhooksApi(None, base_url="https://app.asana.com/api/1.0", http_client=httpx.AsyncClient())


def takes_any_client(api: WebhooksApi) -> None: ...


takes_any_client(client)


# Stores


def takes_any_store(store: Store) -> None: ...


takes_any_store(MemoryStore())
takes_any_store(PostgresStore("postgresql://127.0.0.1/hooks", schema="bots"))
takes_any_store(RedisStore("redis://127.0.0.1:6379/0", prefix="bots:"))
takes_any_store(SqliteStore("asana-webhooks.db"))


# Handlers: a decorated function keeps its type


@client.on()
async def everything(event: Event) -> None: ...


@client.on("task", subtype="default_task", action="changed", field="completed")
async def celebrate(event: Event) -> int:
    assert_type(event.source.webhook, str)
    assert_type(event.source.received_at, datetime | None)
    assert_type(event.echo, bool)
    return len(event.resource.gid)


handlers = Router()
client.include(handlers)


@handlers.on("task", action="added", resource="1204619", account="acme", name="greet")
@handlers.on("task", action="undeleted", resource="1204619", echoes=True)
async def greet(event: Event) -> None:
    if event.user is None:
        raise GiveUp("nobody to greet")
    raise TryAgain(after=60.0)


@client.on_failure
async def report(failure: Failure) -> None:
    assert_type(failure.dead_letter, DeadLetter | None)
    use(failure.event, failure.handler, failure.error, failure.attempt)


handlers.on_failure(report)
assert_type(handlers.wanted_filters("1204619", account="acme"), list[WebhookFilter] | None)


class Notifier:
    async def __call__(self, event: Event) -> None: ...

    async def notify(self, event: Event) -> None: ...


notifier = client.on("story")(Notifier())
assert_type(notifier, Notifier)
client.on(action="added")(notifier.notify)


@client.on()  # type: ignore[type-var] # a handler must be async
def not_async(event: Event) -> None: ...


@client.on()  # type: ignore[type-var] # a handler takes an event
async def takes_text(event: str) -> None: ...


client.on("task", "changed")  # type: ignore[call-arg] # by name only


@client.on_notice()
async def tell_of(notice: Notice) -> None:
    assert_type(notice.source, Source)
    assert_type(notice.start, datetime | None)
    assert_type(notice.detail, str)


client.on_notice("lost")(tell_of)
client.on_notice("losst")  # type: ignore[arg-type] # there is no such kind


# Webhooks and events


async def run_with_handlers() -> None:
    filters = [
        WebhookFilter(resource_type="task", action="changed", fields=["completed"]),
        WebhookFilter(resource_type="task", resource_subtype="milestone", action="added"),
    ]
    async with client as entered:
        assert_type(entered, WebhooksClient)
        assert_type(entered.port, int | None)
        assert_type(entered.is_open, bool)
        assert_type(await client.ensure("1204619", filters=filters), Webhook)
        assert_type(await client.establish("1204619", timeout=30.0), Webhook)
        assert_type(await celebrate(await anext(client.events())), int)
        await client.run()
    await client.aclose()


async def keep_webhooks() -> None:
    client.keep("1204619")
    client.keep("1204620", filters=None, timeout=30.0)
    client.keep("1204621", filters=[WebhookFilter(resource_type="task")])
    async with client.running() as entered:
        assert_type(entered, WebhooksClient)
        assert_type(await client.kept(timeout=None), None)
        await client.leave("1204619")
        await client.forget("1200")
        assert_type(await client.prune(workspace="1199", dry_run=True), list[Webhook])
        assert_type(await client.ensure("1204619", replace=True), Webhook)
    assert_type(await serve(client), None)


async def pass_time(asana: AsanaSimulator) -> None:
    await advance(asana, 900.0, client=client)
    await advance(asana, minutes=1, hours=9.5, days=2, client=client)


async def run_as_a_loop() -> None:
    async with client:
        events = client.events()
        assert_type(events, AsyncGenerator[Event, None])
        async for event in events:
            read(event)
        await events.aclose()


def read(event: Event) -> None:
    assert_type(event.created_at, datetime)
    assert_type(event.action, str)
    assert_type(event.resource, Resource)
    assert_type(event.resource.gid, str)
    assert_type(event.resource.resource_type, str | None)
    assert_type(event.resource.resource_subtype, str | None)
    assert_type(event.resource.name, str | None)
    assert_type(event.user, Resource | None)
    assert_type(event.parent, Resource | None)
    assert_type(event.change, Change | None)
    assert_type(event.key, str)
    assert_type(event.raw, bytes)
    assert_type(event.json(), dict[str, Any])
    if event.change is not None:
        assert_type(event.change.field, str | None)
        assert_type(event.change.action, str | None)
        use(event.change.new_value, event.change.added_value, event.change.removed_value)
    event.action = "changed"  # type: ignore[misc] # events are values


async def look_after_dead_letters() -> None:
    async with client:
        letters = await client.dead_letters(limit=10, after="")
        assert_type(letters, list[DeadLetter])
        for letter in letters:
            assert_type(letter.id, str)
            assert_type(letter.reason, str)
            assert_type(letter.body, bytes)
            assert_type(letter.received_at, datetime)
            assert_type(letter.buried_at, datetime)
            assert_type(letter.handlers, tuple[str, ...])
        assert_type(await client.replay([letter.id for letter in letters]), int)
        assert_type(await client.discard([letter.id for letter in letters]), int)
        assert_type(await client.get_dead_letter("1"), DeadLetter | None)
        chosen = client.iter_dead_letters(
            resource="1204619", webhook="12", reason="failed", buried_before=datetime.now(UTC)
        )
        async for letter in chosen:
            assert_type(letter, DeadLetter)


async def watch_the_inbox() -> None:
    client._listen("0.0.0.0", 8080, reuse_port=True)
    async with client:
        stats = await client.stats()
        assert_type(stats, Stats)
        assert_type(stats.waiting, int)
        assert_type(stats.oldest_age, float | None)
        assert_type(stats.refused, dict[str, int])
        for webhook in stats.webhooks:
            assert_type(webhook, WebhookStats)
            assert_type(webhook.since_heartbeat, float | None)


def takes_any_telemetry(telemetry: Telemetry) -> None: ...


takes_any_telemetry(OpenTelemetry())


# The five operations


async def call(api: WebhooksApi) -> None:
    async with api as entered:
        assert_type(entered, WebhooksApi)
        created = await api.create_webhook(
            "1204619",
            "https://hooks.example.com/asana",
            filters=[WebhookFilter(resource_type="task")],
            opt_fields=["resource.name"],
            timeout=30.0,
        )
        assert_type(created, Webhook)
        assert_type(created.secret, str | None)
        assert_type(await api.get_webhook(created.gid, opt_fields=("active",)), Webhook)
        page = await api.get_webhooks(
            "1199", resource="1204619", limit=50, offset=None, opt_fields=["target"]
        )
        assert_type(page, Page[Webhook])
        assert_type(page.data, tuple[Webhook, ...])
        assert_type(page.offset, str | None)
        assert_type(len(page), int)
        for webhook in page:
            inspect(webhook)
        everything = api.iter_webhooks("1199", resource=None, limit=100, opt_fields=None)
        assert_type(everything, AsyncIterator[Webhook])
        async for webhook in everything:
            inspect(webhook)
        updated = await api.update_webhook(created.gid, filters=(), opt_fields=["filters"])
        assert_type(updated, Webhook)
        await api.delete_webhook(created.gid)
        assert_type(api.asana_now(), datetime)
        fields = {"opt_fields": ["name"], "completed": True, "limit": 5, "since": None}
        assert_type(await api.request("GET", "/tasks/1", params=fields), Any)
        await api.request("POST", "/tasks/1/stories", data={"text": "Thanks"})
        async for records in api.iter_pages("/projects/1/tasks", params=fields):
            assert_type(records, list[dict[str, Any]])
        task = Resource(gid="1", resource_type="task")
        assert_type(await api.fetch(task, opt_fields=("name",)), dict[str, Any] | None)
        assert_type(await api.me(), dict[str, Any])
    await api.aclose()


def inspect(webhook: Webhook) -> None:
    assert_type(webhook.gid, str)
    assert_type(webhook.resource, Resource | None)
    assert_type(webhook.target, str | None)
    assert_type(webhook.active, bool | None)
    assert_type(webhook.created_at, datetime | None)
    assert_type(webhook.last_success_at, datetime | None)
    assert_type(webhook.last_failure_at, datetime | None)
    assert_type(webhook.last_failure_content, str | None)
    assert_type(webhook.delivery_retry_count, int | None)
    assert_type(webhook.next_attempt_after, datetime | None)
    assert_type(webhook.failure_deletion_timestamp, datetime | None)
    assert_type(webhook.filters, tuple[WebhookFilter, ...] | None)
    assert_type(webhook.is_workspace_webhook, bool | None)


def use_filters_as_values() -> None:
    both = {WebhookFilter(action="added"), WebhookFilter(action="changed", fields=("name",))}
    assert_type(both, set[WebhookFilter])
    WebhookFilter("task")  # type: ignore[call-arg] # by name only
    WebhookFilter(fields=[1])  # type: ignore[list-item] # names


# Errors


async def handle_errors() -> None:
    try:
        await client.establish("1204619")
    except LoginRequiredError as error:
        wrong_token: AuthenticationError = error
        use(wrong_token)
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
    except (
        AuthenticationError,
        BadRequestError,
        DuplicateWebhookError,
        NotFoundError,
        PermissionDeniedError,
        ServerError,
    ) as error:
        refused: ApiError = error
        assert_type(refused.status, int)
        assert_type(refused.errors, tuple[str, ...])
        assert_type(refused.help, str | None)
        assert_type(refused.phrase, str | None)
    except HandshakeMissingError as error:
        assert_type(error.asana, tuple[str, ...])
        assert_type(error.seen, tuple[str, ...])
    except HandshakeMismatchError as error:
        failed: EstablishmentError = error
        use(failed)
    except ConnectionFailedError as error:
        assert_type(error.sent, bool)
    except (DecodeError, StoreError) as error:
        base: AsanaWebhooksError = error
        use(base)


# OAuth


async def save_token(token: Token) -> None: ...


oauth = AsanaOAuth(
    "client-id",
    "client-secret",
    token=TokenFile("asana-token.json"),
    redirect_uri="http://127.0.0.1:8765/callback",
    scopes=["webhooks:read", "webhooks:write", "webhooks:delete"],
    base_url="https://app.asana.com/api/1.0",
    http_client=httpx.AsyncClient(),
)
with_oauth = WebhooksClient(oauth, public_url="https://hooks.example.com/asana")
by_hand = AsanaOAuth("client-id", token=None, save=save_token, redirect_uri=OUT_OF_BAND)
in_memory = AsanaOAuth("client-id", token=Token(access_token="a-token"), save=use)


async def log_in_and_out() -> None:
    assert_type(await login(oauth, print, timeout=60.0), Token)
    authorization = by_hand.authorization_url(redirect_uri=OUT_OF_BAND)
    assert_type(authorization, Authorization)
    assert_type(authorization.url, str)
    use(authorization.state, authorization.verifier, authorization.redirect_uri)
    token = await by_hand.fetch_token("the-code", authorization)
    assert_type(token.access_token, str)
    assert_type(token.refresh_token, str | None)
    assert_type(token.expires_at, datetime | None)
    assert_type(token.user, Resource | None)
    assert_type(TokenFile("asana-token.json").load(), Token | None)
    await by_hand.revoke()


async def load_token_of(account: str) -> Token | None: ...


async def save_token_of(account: str, token: Token | None) -> None: ...


oauth_app = OAuthApp("client-id", "client-secret", load=load_token_of, save=save_token_of)
of_many = WebhooksClient(tokens=oauth_app, public_url="https://hooks.example.com/asana")


async def account_of(request: web.Request) -> str | None: ...


async def connected(account: str, token: Token) -> str | None: ...


login_app = of_many.login_app(
    "https://hooks.example.com/connect", account_of=account_of, connected=connected
)
assert_type(login_app, LoginApp)
assert_type(login_app.aiohttp_app(), web.Application)


async def log_out() -> None:
    assert_type(oauth_app.of("acme"), AsanaOAuth)
    await oauth_app.of("acme").revoke()


# Signatures alone


def verify(body: bytes, signature: str, secret: str) -> bool:
    try:
        verify_signature(body, signature, secret)
    except SignatureError:
        return False
    assert_type(sign(body, secret), str)
    verify_signature(body.decode(), signature, secret)  # type: ignore[arg-type] # bytes were signed
    return True


# Inside another server


threaded = WsgiClient("a-token", public_url="https://hooks.example.com/asana", serve=False)


@threaded.on("task")
def note_in_a_thread(event: Event) -> None:
    assert_type(threaded.from_thread(threaded.me), dict[str, Any])


@threaded.on("task")
async def note_in_the_loop(event: Event) -> None:
    use(event)


@threaded.on("task")  # type: ignore[type-var] # it takes no event
def note_nothing() -> None: ...


def mount_in_wsgi() -> None:
    threaded.start()
    use(threaded.wsgi)
    threaded.stop()


def mount_in_aiohttp() -> web.Application:
    app = web.Application()
    app.add_subapp("/asana", mounted.aiohttp_app())
    return app


async def answer_in_a_server_of_another_kind(path: str, body: bytes) -> int:
    response = await mounted.handle("POST", path, {"X-Hook-Secret": "s" * 32}, body)
    assert_type(response, Response)
    assert_type(response.headers, tuple[tuple[str, str], ...])
    assert_type(response.body, bytes)
    await mounted.drain(deadline=20.0)
    await mounted.handle("POST", path, [(b"X-Hook-Secret", b"s" * 32)], body)
    await mounted.handle("POST", path, [("X-Hook-Secret", "s" * 32)], body)
    return response.status


async def mount_in_asgi(scope: Any, receive: Any, send: Any) -> None:
    await mounted.asgi(scope, receive, send)


# A local Asana


def tell(traffic: Call | Handshake | Attempt | Dropped) -> None:
    if isinstance(traffic, Call):
        use(traffic.method, traffic.path, traffic.status)
    if isinstance(traffic, Dropped):
        use(traffic.webhook_gid, traffic.event["action"])


watched = AsanaSimulator(watch=tell)


async def try_without_an_account() -> None:
    async with AsanaSimulator(gather_for=60, retry_delay=0.1, drop_share=0.1) as asana:
        assert_type(asana, AsanaSimulator)
        kim = assert_type(await asana.add_user("Kim", token="kims-token", email="k@x.org"), str)
        project = await asana.create_project("One", team="12", members=[kim], user=kim)
        assert_type(await asana.create_portfolio("All", projects=[project]), str)
        await asana.complete_task(await asana.create_task("Fix it", project=project, user=kim))
        await asana.remove_user(kim)
        assert_type(await asana.seed({"projects": [{"name": "One"}]}), dict[str, str])
        assert_type(asana.snapshot(), dict[str, dict[str, Any]])
        asana.faults.once("GET", "/tasks/*", status=None)
        await asana.reset()
        asana.oauth.user = kim
        for call in assert_type(asana.calls("GET", "/users/me", token="kims-token"), list[Call]):
            use(call.method, call.path, call.status, call.query, call.token, call.user)
        assert_type(asana.dropped, list[Dropped])
        asana.release_stream.set()
        assert_type(asana.base_url, str)
        assert_type(asana.workspace, str)
        assert_type(asana.project, str)
        assert_type(asana.webhooks, Mapping[str, WebhookRecord])
        assert_type(asana.deliveries, list[Attempt])
        task = await asana.create_task("Fix the login", project=asana.project)
        assert_type(task, str)
        await asana.complete_task(task)
        assert_type(await asana.add_comment(task, "Done"), str)
        await asana.delete(task)
        await asana.undelete(task)
        await asana.emit(asana.project, {"action": "changed"})
        asana.faults.add(Fault.NO_HANDSHAKE)
        asana.faults.discard("no-handshake")
        for webhook in asana.webhooks.values():
            webhook.faults.add(Fault.DUPLICATE)
        await asana.settled()
        await asana.advance(days=1, hours=9, minutes=0.5, seconds=1)
        assert_type(await asana.deliver("12", b"{}", signature="0" * 64), int | None)
        assert_type(asana.oauth_url, str)
        assert_type(asana.control_url, str)
        assert_type(asana.now, datetime)
        asana.oauth.consents = False
        asana.oauth.rotates = True
        asana.oauth.clients = {"an-app": "its secret"}
        asana.changes["new_webhooks"] = "https://forum.example.com/t/1"


async def try_a_strict_asana() -> None:
    async with AsanaSimulator(
        rate_limit=150,
        concurrent_gets=50,
        concurrent_writes=15,
        changes={"new_webhooks": "https://forum.example.com/t/1"},
        oauth_clients={"an-app": "its secret"},
        consents=False,
        rotates=True,
    ):
        pass


# Continuity


async def serves_many_users() -> None:
    async def load(account: str) -> str | httpx.Auth:
        return httpx.BasicAuth(account, "secret") if account else "a-token"

    client = WebhooksClient(tokens=load, public_url="https://hooks.example.com")
    acme = client.account("acme")
    assert_type(acme, Account)
    acme.keep("1204619")
    acme.follow("1331", where={"archived": False})
    client.follow("1331", where=lambda project: "bug" in project["name"], filters=None)
    await acme.kept()
    assert_type(await acme.ensure("1204619"), Webhook)
    assert_type(acme.name, str)
    takes_any_client(acme)

    @client.on("task", account="acme")
    async def handle(event: Event) -> None:
        try:
            assert_type(client.of(event), Account)
        except AccountTokenError as error:
            assert_type(error.is_final, bool)

    await client.remove_account("acme")


async def tells_what_is_proven(client: WebhooksClient) -> None:
    assert_type(await client.reconcile(), int)
    for each in await client.continuity():
        assert_type(each, Continuity)
        assert_type(each.proven_until, datetime | None)
        assert_type(each.dropped_share, float)
        for gap in each.gaps:
            assert_type(gap, Gap)
            assert_type(gap.end, datetime | None)
            assert_type(await client.close_gap(gap.id), bool)


# Tests


def test_synchronously(asana_simulator: ThreadedSimulator) -> None:
    task = asana_simulator.run(asana_simulator.create_task("Fix it", project="12"), timeout=5.0)
    assert_type(task, str)
    assert_type(asana_simulator.deliveries, list[Attempt])
    use(asana_simulator.nonsense)  # type: ignore[attr-defined] # it has what AsanaSimulator has


async def test_with_a_client(
    asana_simulator: ThreadedSimulator, make_asana_client: Callable[..., WebhooksClient]
) -> None:
    takes_the_local_asana(asana_simulator)
    async with make_asana_client(max_attempts=1) as made:
        assert_type(await asana_simulator.create_task("Fix it", project="12"), str)
        await asana_simulator.handshake_done.wait()
        await drain(made, timeout=5.0)


def takes_the_local_asana(asana: AsanaSimulator) -> None: ...


def test_with_an_asana_of_ones_own() -> None:
    with threaded_simulator(retry_delay=0.1) as asana:
        assert_type(asana, ThreadedSimulator)


async def test_a_handler_and_a_receiver(app: web.Application) -> None:
    event = make_event("task", subtype="milestone", action="changed", field="name", gid="12")
    assert_type(event, Event)
    await celebrate(make_event("story", action="added", parent={"gid": "12"}, user=None))
    delivery = make_delivery("a-secret", event, make_event())
    source = Source(webhook="1700", resource="1204619", account="acme", via="stream")
    await celebrate(make_event("task", source=source))
    assert_type(delivery, Post)
    assert_type(delivery.body, bytes)
    assert_type(delivery.headers, dict[str, str])
    assert_type(await send(delivery, "http://127.0.0.1:8080/asana"), httpx.Response)
    assert_type(await send(make_handshake("a-secret"), app, path="/asana"), httpx.Response)
    assert_type(await send(delivery, mounted.asgi), httpx.Response)
