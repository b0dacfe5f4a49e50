"""Findings of the doctor at an address: names, real certificates, and whoever answers there."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.doctored import Answer, Serve, findings, portal, results, serve

from asana_webhooks.cli.doctor.address import address_findings, certificate_finding

__all__ = ["portal", "serve"]

LOCAL = "http://127.0.0.1:9/api/1.0"


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
