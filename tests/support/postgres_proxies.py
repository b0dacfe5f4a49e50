"""Proxies as hosted PostgreSQL servers have before them: TLS, a pooler that parts transactions.

The server of the wheel speaks no TLS, and no wheel has a pooler: these two speak as much of the
protocol as a client of the store needs. https://www.postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.postgres_server import PASSWORD, PostgresServer
from support.valkey_server import key_usage

SSL_REQUEST = struct.pack("!II", 8, 80877103)
END = b"X"
IDLE = b"Z" + struct.pack("!I", 5) + b"I"

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Yield the address of a server on this loop."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def tls_proxy(
    server: PostgresServer, certificate: Path
) -> contextlib.AbstractAsyncContextManager[str]:
    """Yield the address of what takes connections with TLS, or without, to a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = await reader.readexactly(8)
        if begin == SSL_REQUEST:
            writer.write(b"S")
            await writer.start_tls(context)
            begin = b""
        inner, outer = await asyncio.open_connection("127.0.0.1", server.port)
        outer.write(begin)
        ends = (_pass_on(reader, outer), _pass_on(inner, writer))
        try:
            await asyncio.gather(*ends)
        finally:
            outer.close()

    return _listening(serve)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()


def self_made_certificate(directory: Path) -> Path:
    """Return a file with a key, and a certificate of it for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "postgres of tests")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(key_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextlib.asynccontextmanager
async def transaction_pooler(server: PostgresServer) -> AsyncIterator[str]:
    """Yield the address of a pooler that gives each transaction the next of two connections.

    It knows nothing of prepared statements, as PgBouncer before 1.21.
    """
    connections = [await _log_in(server), await _log_in(server)]
    lent = [asyncio.Lock(), asyncio.Lock()]
    turns = itertools.cycle(range(len(lent)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _let_in(reader, writer)
        asking = asyncio.ensure_future(_message(reader))
        try:
            while (question := await asking)[:1] != END:
                number = next(turns)
                async with lent[number]:
                    answers, questions = connections[number]
                    answering = asyncio.ensure_future(_answer(answers, writer))
                    while not answering.done():
                        questions.write(question)
                        asking = asyncio.ensure_future(_message(reader))
                        await asyncio.wait([asking, answering], return_when="FIRST_COMPLETED")
                        question = b"" if answering.done() else asking.result()
        finally:
            asking.cancel()

    try:
        async with _listening(serve) as address:
            yield address
    finally:
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()


async def _log_in(server: PostgresServer) -> Streams:
    """Return a connection of the pooler; the server's socket asks for no password."""
    path = server.directory / f".s.PGSQL.{server.port}"
    reader, writer = await asyncio.open_unix_connection(path)
    parameters = b"user\0postgres\0database\0postgres\0client_encoding\0UTF8\0\0"
    writer.write(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
    while await _message(reader) != IDLE:
        pass
    return reader, writer


async def _let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a client's start: it is let in, whoever it is."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    begin = await reader.readexactly(length - 4)
    if struct.pack("!I", length) + begin == SSL_REQUEST:
        writer.write(b"N")
        await _let_in(reader, writer)
        return
    writer.write(b"R" + struct.pack("!II", 8, 0))
    for name, value in [("server_version", "16.0"), ("client_encoding", "UTF8")]:
        text = f"{name}\0{value}\0".encode()
        writer.write(b"S" + struct.pack("!I", len(text) + 4) + text)
    writer.write(b"K" + struct.pack("!III", 12, 1, 1))
    writer.write(IDLE)


async def _answer(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what the server answers; return when the transaction is over."""
    answer = b""
    while answer != IDLE:
        answer = await _message(answers)
        writer.write(answer)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head + await reader.readexactly(length - 4)
