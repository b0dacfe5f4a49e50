"""``asana-webhooks doctor``: each check, on real servers, certificates and stores."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from cli_shell import Shell, free_port, shell
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from postgres_server import PostgresServer, schema_name
from postgres_server import _postgres_server as postgres_server
from valkey_server import TO_A_DISK, running_valkey

from asana_webhooks.cli import doctor
from asana_webhooks.cli.doctor.address import address_findings, certificate_finding
from asana_webhooks.cli.doctor.asana import clock_finding
from asana_webhooks.cli.doctor.finding import Finding
from asana_webhooks.cli.doctor.store import store_findings
from asana_webhooks.simulator import Fault
from asana_webhooks.stores.postgres import PostgresStore

__all__ = ["postgres_server", "shell"]

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]
Serve = Callable[..., str]

LOCAL = "http://127.0.0.1:9/api/1.0"
NOW = datetime(2026, 7, 4, 10, 11, 12, tzinfo=UTC)


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture
def serve(portal: BlockingPortal) -> Iterator[Serve]:
    """Return a function that serves answers, with TLS if given, and returns host and port."""
    runners = []

    async def start(answer: Answer, port: int, tls: ssl.SSLContext | None) -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        return runner

    def started(answer: Answer, *, tls: ssl.SSLContext | None = None) -> str:
        port = free_port()
        runners.append(portal.call(start, answer, port, tls))
        return f"localhost:{port}"

    yield started
    for runner in runners:
        portal.call(runner.cleanup)


def findings(*groups: Any) -> dict[str, Finding]:
    async def all_of() -> list[Finding]:
        return [finding for group in groups for finding in [each async for each in group]]

    return {finding.check: finding for finding in asyncio.run(all_of())}


def results(found: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.result for check, finding in found.items()}


# The command as a whole


def test_all_is_well_with_a_receiver_that_runs(shell: Shell) -> None:
    with shell.portal.wrap_async_context_manager(shell.client()):
        result = shell.run("doctor")
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert [word for word, _ in lines] == ["ok"] * 9
    assert [text.partition(":")[0] for _, text in lines] == [
        *("token", "webhooks", "clock", "public URL", "name", "receiver", "unknown route"),
        *("store", "durability"),
    ]
    assert "Robin Example 1201" in lines[0][1]
    assert "\x1b" not in result.stdout


def test_what_failed_comes_with_the_next_step_and_status_1(shell: Shell) -> None:
    result = shell.run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    place = lines.index("failed   receiver: no answer from there: ConnectError")
    assert "start the receiver (`asana-webhooks serve`)" in lines[place + 1]
    assert lines[-1].startswith("ok       durability")


def test_json_is_a_finding_a_line(shell: Shell) -> None:
    result = shell.run("doctor", "--json", ASANA_WEBHOOKS_PUBLIC_URL=None)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, "a warning is no failure"
    assert [each["result"] for each in found] == ["ok", "ok", "ok", "warning", "ok", "ok"]
    assert found[3]["check"] == "public URL"
    assert found[3]["next"] == "name it with --public-url or ASANA_WEBHOOKS_PUBLIC_URL"
    assert found[0]["next"] is None


@pytest.mark.parametrize(("no_colour", "is_coloured"), [("", True), ("1", False)])
def test_results_are_coloured_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, no_colour: str, *, is_coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    printed: list[str] = []
    monkeypatch.setattr("click.echo", printed.append)
    doctor._print(Finding("x", "failed", "\x1b]0;title", "do"), as_json=False)
    assert ("\x1b[31mfailed" in printed[0]) is is_coloured
    assert "\\x1b]0;title" in printed[0]
    assert printed[1] == "         -> do"
    assert is_coloured or "\x1b" not in printed[0]


# Asana


def asana_results(shell: Shell, **environment: Any) -> dict[str, dict[str, Any]]:
    result = shell.run("doctor", "--json", ASANA_WEBHOOKS_PUBLIC_URL=None, **environment)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {each["check"]: each for each in found}


def test_without_a_token_nothing_is_asked_of_asana(shell: Shell) -> None:
    found = asana_results(shell, ASANA_ACCESS_TOKEN=None)
    assert found["token"]["result"] == "failed"
    assert "set ASANA_ACCESS_TOKEN" in found["token"]["found"]
    assert {"webhooks", "clock"}.isdisjoint(found)


def test_asana_that_fails_is_told_with_its_status(shell: Shell) -> None:
    shell.asana.faults.add(Fault.UNAVAILABLE)
    found = asana_results(shell)
    assert found["token"]["found"] == "Asana answered 503: no explanation in the body"
    assert found["token"]["next"] == "try again later"
    assert found["webhooks"]["result"] == "failed"


def test_asana_that_does_not_answer_is_told(shell: Shell) -> None:
    found = asana_results(shell, ASANA_BASE_URL=f"http://127.0.0.1:{free_port()}/api/1.0")
    assert found["token"]["result"] == "failed"
    assert "no answer from 127.0.0.1" in found["token"]["found"]
    assert "clock" not in found


def asana_that_says(status: int, body: Any, **headers: str) -> Answer:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

    return answer


@pytest.mark.parametrize(
    ("status", "body", "said", "step"),
    [
        pytest.param(
            *(401, {"errors": [{"message": "Not Authorized"}]}),
            *("Asana answered 401: Not Authorized", "check the access token"),
            id="refused",
        ),
        pytest.param(
            *(403, {"errors": [{"message": "missing scope users:read"}]}),
            *("the token lacks users:read", "the scopes webhooks:read"),
            id="scope",
        ),
        pytest.param(
            *(403, {"errors": [{"message": "Forbidden"}]}),
            *("Asana answered 403: Forbidden", "check the token's scopes"),
            id="forbidden",
        ),
        pytest.param(302, {}, "Asana answered 302", "check base_url", id="redirect"),
        pytest.param(451, {}, "Asana answered 451", "check --base-url", id="other"),
        pytest.param(200, [], "none of Asana's", "check --base-url", id="another server"),
    ],
)
def test_what_asana_says_of_the_token_is_told(
    shell: Shell, serve: Serve, status: int, body: Any, said: str, step: str
) -> None:
    url = f"http://{serve(asana_that_says(status, body))}/api/1.0"
    found = asana_results(shell, ASANA_BASE_URL=url)
    for check in ("token", "webhooks"):
        assert found[check]["result"] == "failed"
        assert said in found[check]["found"]
        assert step in found[check]["next"]


@pytest.mark.parametrize(
    ("data", "name"), [([], "somebody's"), ({}, "somebody's"), ({"gid": "7"}, "7's")]
)
def test_token_of_a_user_without_workspaces_is_a_warning(
    shell: Shell, serve: Serve, data: Any, name: str
) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({"data": data if request.path.endswith("/me") else []})

    found = asana_results(shell, ASANA_BASE_URL=f"http://{serve(answer)}/api/1.0")
    assert found["token"]["found"] == f"it is {name}"
    assert found["webhooks"]["found"] == "the token sees no workspace"


@pytest.mark.parametrize(
    ("seconds", "result", "said"),
    [
        (0, "ok", "0 s behind"),
        (-59, "ok", "59 s behind"),
        (90, "warning", "90 s ahead of"),
        (-90, "warning", "90 s behind"),
        (4_000, "failed", "4000 s ahead of"),
    ],
)
def test_clock_is_compared_with_asanas(seconds: float, result: str, said: str) -> None:
    date = format_datetime(NOW - timedelta(seconds=seconds), usegmt=True)
    found = clock_finding(date, NOW)
    assert (found.result, found.found) == (result, f"{said} Asana's")


def test_clock_of_an_answer_without_a_readable_date_is_a_warning() -> None:
    assert clock_finding("yesterday", NOW).result == "warning"


# The address


async def not_ours(request: web.BaseRequest) -> web.Response:
    status = 404 if request.method == "POST" else 200
    return web.Response(status=status, text="<html>")


async def teapot(request: web.BaseRequest) -> web.Response:
    return web.Response(status=418)


async def only_alive(request: web.BaseRequest) -> web.Response:
    if request.method == "POST":
        return web.Response(status=405)
    return web.Response(text="alive\n")


async def hangs_up(request: web.BaseRequest) -> web.Response:
    if request.method == "POST":
        assert request.transport is not None
        request.transport.abort()
    return web.Response(text="alive\n")


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        pytest.param(not_ours, {"receiver": "warning", "unknown route": "warning"}, id="another"),
        pytest.param(teapot, {"receiver": "failed"}, id="nothing of ours"),
        pytest.param(only_alive, {"receiver": "ok", "unknown route": "failed"}, id="no posts"),
        pytest.param(hangs_up, {"receiver": "ok", "unknown route": "failed"}, id="hangs up"),
    ],
)
def test_who_answers_is_told(serve: Serve, answer: Answer, wanted: dict[str, str]) -> None:
    found = findings(address_findings(f"http://{serve(answer)}/asana", LOCAL))
    assert results(found) == {"public URL": "ok", "name": "ok", **wanted}
    assert all(each.next for each in found.values() if each.result != "ok")


def test_address_of_this_machine_is_not_asked_through_a_proxy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found = findings(address_findings(f"http://{serve(only_alive)}/asana", LOCAL))
    assert found["receiver"].result == "ok"


@pytest.mark.parametrize(
    ("url", "base_url", "wanted"),
    [
        pytest.param("hooks", LOCAL, {"public URL": "failed"}, id="no URL"),
        pytest.param("https://h.example:99999", LOCAL, {"public URL": "failed"}, id="no port"),
        pytest.param(
            f"https://{'h' * 64}.example", LOCAL, {"public URL": "ok", "name": "failed"}, id="long"
        ),
        pytest.param(
            "http://127.0.0.1:9/\x7f",
            LOCAL,
            {"public URL": "ok", "name": "ok", "receiver": "failed"},
            id="odd path",
        ),
        pytest.param(
            "https://nobody.invalid/x", LOCAL, {"public URL": "ok", "name": "failed"}, id="no name"
        ),
        pytest.param(
            "http://nobody.invalid/x",
            "https://app.asana.com/api/1.0",
            {"public URL": "warning", "name": "failed"},
            id="http",
        ),
    ],
)
def test_what_depends_on_a_failed_check_is_left_out(
    url: str, base_url: str, wanted: dict[str, str]
) -> None:
    assert results(findings(address_findings(url, base_url))) == wanted


def test_name_that_leads_to_a_private_address_is_a_warning(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = serve(teapot).rpartition(":")[2]
    known = asyncio.BaseEventLoop.getaddrinfo

    async def resolve(loop: Any, host: str, *arguments: Any, **options: Any) -> Any:
        return await known(loop, "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    url = f"http://hooks.example.com:{port}/asana"
    found = findings(address_findings(url, "https://app.asana.com/api/1.0"))
    assert found["name"].result == "warning"
    assert found["name"].found == "hooks.example.com is 127.0.0.1 from here"


# The certificate


def certificate(directory: Path, *, days: int, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a context with a new certificate for localhost, which this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - timedelta(days=400))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = directory / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize(
    ("days", "result", "said"),
    [
        (90, "ok", "it is valid for 90 days"),
        (5, "warning", "it is valid for 5 days"),
        (-2, "failed", "it is not valid: certificate has expired"),
    ],
)
def test_certificate_is_judged_by_the_days_that_are_left(
    *,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    result: str,
    said: str,
) -> None:
    tls = certificate(tmp_path, days=days, monkeypatch=monkeypatch)
    url = f"https://{serve(only_alive, tls=tls)}/asana"
    found = findings(address_findings(url, LOCAL))
    assert (found["certificate"].result, found["certificate"].found) == (result, said)
    assert found["receiver"].result == ("failed" if days < 0 else "ok")


def test_certificate_that_nobody_trusts_fails(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificate(tmp_path, days=90, monkeypatch=monkeypatch)
    monkeypatch.delenv("SSL_CERT_FILE")
    found = findings(address_findings(f"https://{serve(only_alive, tls=tls)}/asana", LOCAL))
    assert "it is not valid: self" in found["certificate"].found


def test_port_without_tls_has_no_certificate(serve: Serve) -> None:
    found = findings(address_findings(f"https://{serve(only_alive)}/asana", LOCAL))
    assert found["certificate"].found.startswith("there is none to see: ")


def test_days_are_counted_from_now() -> None:
    end = ssl.cert_time_to_seconds("Jul  4 00:00:00 2026 GMT")
    known = {"notAfter": "Jul  4 00:00:00 2026 GMT"}
    assert certificate_finding(known, end - 14 * 86_400).result == "ok"
    assert certificate_finding(known, end - 14 * 86_400 + 1).result == "warning"


# The store


def test_new_file_is_named_as_such_and_nothing_is_left_in_it(shell: Shell) -> None:
    url = f"sqlite:///{shell.file}"
    found = findings(store_findings(url))
    assert results(found) == {"store": "ok", "durability": "ok"}
    assert "(it is new)" in found["store"].found
    assert "synchronous=FULL" in found["durability"].found
    assert "new" not in findings(store_findings(url))["store"].found
    assert shell.routes() == []


def test_store_in_memory_is_a_warning() -> None:
    assert results(findings(store_findings("memory:"))) == {"store": "ok", "durability": "warning"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://h/d", "store must be"),
        ("sqlite:////nowhere/at/all.db", "check that its directory exists"),
        ("redis://127.0.0.1:9/0", "cannot be reached"),
    ],
)
def test_store_that_does_not_open_fails_with_the_remedy(url: str, said: str) -> None:
    found = findings(store_findings(url))
    assert results(found) == {"store": "failed"}
    assert said in found["store"].found


def test_redis_that_keeps_what_it_is_given_is_well() -> None:
    with running_valkey(*TO_A_DISK) as server:
        found = findings(store_findings(server.url))
    assert results(found) == {"store": "ok", "durability": "ok"}
    assert "appendfsync everysec may lose a second" in found["durability"].found


def test_redis_that_evicts_or_forgets_is_a_warning_in_its_stores_words() -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--save", "")
    with running_valkey(*options) as server:
        found = findings(store_findings(server.url))
    assert results(found) == {"store": "ok", "durability": "warning"}
    assert "evicts keys (maxmemory-policy allkeys-lru)" in found["durability"].found
    assert "keeps no append-only file" in found["durability"].found


def test_redis_that_does_not_tell_its_settings_is_a_warning() -> None:
    with running_valkey("--rename-command", "CONFIG", "") as server:
        found = findings(store_findings(server.url))
    assert "could not be checked" in found["durability"].found


@pytest.mark.parametrize(("commit", "result"), [("on", "ok"), ("off", "warning")])
def test_postgres_is_judged_by_its_synchronous_commit(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, commit: str, result: str
) -> None:
    url = f"{postgres_server.dsn}?options=-c%20synchronous_commit%3D{commit}"
    monkeypatch.setattr(
        "asana_webhooks.cli.doctor.store.open_store",
        lambda url: PostgresStore(url, schema=schema_name()),
    )
    found = findings(store_findings(url))
    assert results(found) == {"store": "ok", "durability": result}
    assert ("synchronous_commit is off" in found["durability"].found) is (commit == "off")
