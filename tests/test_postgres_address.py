"""Addresses of PostgreSQL servers: as providers hand them out, and what cannot be connected to."""

from __future__ import annotations

import asyncio
import socket
import traceback
from pathlib import Path

import asyncpg
import pytest
from support.postgres_proxies import self_made_certificate, tls_proxy, transaction_pooler
from support.postgres_server import PASSWORD, PostgresServer, own, running, schema_name, standby_of
from test_stores import handled, numbers, put, take

from asana_webhooks.errors import StoreError
from asana_webhooks.stores.postgres import PostgresStore
from asana_webhooks.stores.postgres._address import Address
from asana_webhooks.stores.postgres._errors import failure

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def server() -> PostgresServer:
    return running()


@pytest.fixture
def schema() -> str:
    return schema_name()


# As pasted

NEON = "ep-cool-darkness-a1b2c3d4-pooler.us-east-2.aws.neon.tech"
SUPABASE = "aws-0-eu-central-1.pooler.supabase.com"


@pytest.mark.parametrize(
    ("given", "dsn", "name"),
    [
        pytest.param(
            f"postgresql://alex:AbC123dEf@{NEON}/dbname?sslmode=require&channel_binding=require",
            f"postgresql://alex:AbC123dEf@{NEON}/dbname?sslmode=require",
            f"postgresql://{NEON}/dbname",
            id="Neon",
        ),
        pytest.param(
            "postgres://u:pw@ep-x.neon.tech/db?options=endpoint%3Dep-x&sslmode=require",
            "postgres://u:pw@ep-x.neon.tech/db?options=endpoint%3Dep-x&sslmode=require",
            "postgresql://ep-x.neon.tech/db",
            id="Neon without SNI",
        ),
        pytest.param(
            "postgresql://postgres:p%40ss%2Fw@db.abcd.supabase.co:5432/postgres",
            "postgresql://postgres:p%40ss%2Fw@db.abcd.supabase.co:5432/postgres",
            "postgresql://db.abcd.supabase.co:5432/postgres",
            id="Supabase, direct",
        ),
        pytest.param(
            f"postgresql://postgres.abcd:pw@{SUPABASE}:5432/postgres",
            f"postgresql://postgres.abcd:pw@{SUPABASE}:5432/postgres",
            f"postgresql://{SUPABASE}:5432/postgres",
            id="Supabase, session pooler",
        ),
        pytest.param(
            f"postgresql://postgres.abcd:pw@{SUPABASE}:6543/postgres?pgbouncer=true",
            f"postgresql://postgres.abcd:pw@{SUPABASE}:6543/postgres",
            f"postgresql://{SUPABASE}:6543/postgres",
            id="Supabase, transaction pooler",
        ),
        pytest.param(
            "postgres://u1:pw@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
            "postgres://u1:pw@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
            "postgresql://ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
            id="Heroku",
        ),
        pytest.param(
            "postgresql://u:pw@dpg-abc-a.frankfurt-postgres.render.com/db_x1",
            "postgresql://u:pw@dpg-abc-a.frankfurt-postgres.render.com/db_x1",
            "postgresql://dpg-abc-a.frankfurt-postgres.render.com/db_x1",
            id="Render",
        ),
        pytest.param(
            "postgres://app:pw@app-db.flycast:5432/app?sslmode=disable",
            "postgres://app:pw@app-db.flycast:5432/app?sslmode=disable",
            "postgresql://app-db.flycast:5432/app",
            id="Fly",
        ),
        pytest.param(
            "postgresql://u:pw@x.rds.amazonaws.com/db?sslmode=verify-full"
            "&sslrootcert=/etc/rds/global-bundle.pem",
            "postgresql://u:pw@x.rds.amazonaws.com/db?sslmode=verify-full"
            "&sslrootcert=%2Fetc%2Frds%2Fglobal-bundle.pem",
            "postgresql://x.rds.amazonaws.com/db",
            id="RDS",
        ),
        pytest.param(
            "postgresql://doadmin:pw@db-x.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
            "postgresql://doadmin:pw@db-x.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
            "postgresql://db-x.db.ondigitalocean.com:25060/defaultdb",
            id="DigitalOcean",
        ),
        pytest.param(
            "postgresql://postgres:pw@viaduct.proxy.rlwy.net:41234/railway",
            "postgresql://postgres:pw@viaduct.proxy.rlwy.net:41234/railway",
            "postgresql://viaduct.proxy.rlwy.net:41234/railway",
            id="Railway",
        ),
        pytest.param(
            "postgresql:///db?host=/cloudsql/project:region:name&user=u&password=a%2Bb+c",
            "postgresql:///db?host=%2Fcloudsql%2Fproject%3Aregion%3Aname&user=u&password=a%2Bb%2Bc",
            "postgresql:///cloudsql/project:region:name/db",
            id="socket of Cloud SQL",
        ),
        pytest.param(
            "postgresql://u@10.0.0.5:5433,10.0.0.6/hooks?target_session_attrs=read-write",
            "postgresql://u@10.0.0.5:5433,10.0.0.6/hooks?target_session_attrs=read-write",
            "postgresql://10.0.0.5:5433,10.0.0.6/hooks",
            id="two hosts",
        ),
        pytest.param(
            "postgresql://u@h/d?keepalives=1&keepalives_idle=30&keepalives_interval=10"
            "&keepalives_count=3&tcp_user_timeout=9&gssencmode=disable&application_name=hooks"
            "&passfile=/run/pgpass&ssl=true&fallback_application_name=x&sslsni=1",
            "postgresql://u@h/d?application_name=hooks&passfile=%2Frun%2Fpgpass&sslmode=require",
            "postgresql://h/d",
            id="what libpq takes",
        ),
        pytest.param(
            "postgresql://u@h/d?sslmode=&options=-c%20statement_timeout%3D9s",
            "postgresql://u@h/d?options=-c%20statement_timeout%3D9s",
            "postgresql://h/d",
            id="empty value",
        ),
    ],
)
def test_address_is_taken_as_it_was_handed_out(given: str, dsn: str, name: str) -> None:
    address = Address.read(given)
    assert (address.dsn, address.name) == (dsn, name)
    assert address.pooled == ("pgbouncer" in given)
    assert "pw" not in repr(address)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_system_roots_need_the_host_to_be_verified_as_well(mode: str) -> None:
    for query in ("sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        assert Address.read(f"postgresql://h/d?{query}").system_roots
    with pytest.raises(ValueError, match="sslrootcert=system .* needs sslmode=verify-full"):
        Address.read(f"postgresql://h/d?sslmode={mode}&sslrootcert=system")
    assert not Address.read(f"postgresql://h/d?sslmode={mode}").system_roots


def test_parameters_of_poolers_and_other_libraries_have_no_effect() -> None:
    address = Address.read("postgresql://h/d?supa=base-pooler.x&connection_limit=1&pool_timeout=15")
    assert address.dsn == "postgresql://h/d"


def test_sslmode_that_checks_no_certificate_is_what_libpq_calls_require() -> None:
    assert Address.read("postgres://h/d?sslmode=no-verify").dsn == "postgres://h/d?sslmode=require"


@pytest.mark.parametrize(
    ("given", "seconds"), [("", 4.0), ("0", 30.0), ("1", 2.0), ("10", 10.0), ("3600", 30.0)]
)
def test_connect_timeout_is_that_of_libpq_within_what_opening_takes(
    given: str, seconds: float
) -> None:
    assert Address.read(f"postgresql://h/d?connect_timeout={given}").connect_timeout == seconds


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("odd=s3cret", "a parameter 'odd', which is not known.*options=-c%20odd%3D"),
        ("synchronous_commit=s3cret", "options=-c%20synchronous_commit%3D"),
        ("hostaddr=s3cret", "'hostaddr', which is not known"),
        (
            "sslmode=s3cret",
            "sslmode .* is one of: allow, disable, no-verify, prefer, require, verify-ca",
        ),
        ("target_session_attrs=standby", "is one of: any, primary, read-write"),
        ("channel_binding=s3cret", "channel_binding .* is one of: disable, prefer, require"),
        ("gssencmode=require", "gssencmode .* is one of"),
        ("pgbouncer=s3cret", "pgbouncer .* is one of: false, true"),
        ("connect_timeout=s3cret", "connect_timeout .* is a number of seconds"),
        ("port=s3cret", "port .* is a number"),
        ("port=65536", "port .* is above 65535"),
        ("port=1,2", "port .* is one number, or one for each host"),
    ],
)
def test_parameter_of_no_use_is_named_and_its_value_is_not(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        PostgresStore(f"postgresql://u@h/d?{query}")
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


def test_port_of_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="port .* is above 65535"):
        PostgresStore("postgresql://h:5432,i:70000/d")


# Connected to


async def test_store_works_behind_a_pooler_that_parts_transactions(
    server: PostgresServer, schema: str
) -> None:
    async with (
        transaction_pooler(server) as address,
        PostgresStore(f"{address}?pgbouncer=true", schema=schema) as store,
    ):
        await asyncio.gather(*(put(store, number) for number in range(20)))
        claim = await take(store)
        assert numbers(claim) == list(range(20))
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        await store.listen(lambda: None)  # it hears nothing, and takes no connection
        calls = [store.counts() for _ in range(20)]
        assert {counts.waiting for counts in await asyncio.gather(*calls)} == {0}


async def test_pooler_that_parts_transactions_is_named_with_what_to_add(
    server: PostgresServer, schema: str
) -> None:
    async with transaction_pooler(server) as address:
        with pytest.raises(StoreError, match="add pgbouncer=true to the parameters of its address"):
            await PostgresStore(address, schema=schema).__aenter__()


@pytest.mark.parametrize(
    "query",
    [
        *("", "?sslmode=require", "?ssl=true", "?sslmode=verify-ca&sslrootcert={file}"),
        *("?sslmode=verify-full&sslrootcert={file}", "?sslrootcert=system"),
    ],
)
async def test_store_works_with_tls(
    server: PostgresServer,
    schema: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
) -> None:
    file = self_made_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with (
        tls_proxy(server, file) as address,
        PostgresStore(address + query.format(file=file), schema=schema) as store,
    ):
        await put(store, 1)
        assert numbers(await take(store)) == [1]


@pytest.mark.parametrize(
    ("query", "host", "message"),
    [
        ("sslrootcert=system", "127.0.0.1", r"not trusted \(self-signed certificate\): name its"),
        ("sslmode=verify-full&sslrootcert={file}", "localhost", "not trusted .Hostname mismatch"),
        ("sslmode=verify-ca&sslrootcert={empty}", "127.0.0.1", "TLS fails .*check sslmode"),
    ],
    ids=["authority", "host", "file"],
)
async def test_certificate_that_is_not_trusted_is_told_with_the_reason(
    server: PostgresServer, tmp_path: Path, query: str, host: str, message: str
) -> None:
    file, empty = self_made_certificate(tmp_path), tmp_path / "empty"
    empty.touch()
    async with tls_proxy(server, file) as address:
        checked = f"{address.replace('127.0.0.1', host)}?{query}".format(file=file, empty=empty)
        with pytest.raises(StoreError, match=message):
            await PostgresStore(checked).__aenter__()


@pytest.mark.parametrize("database", ["none", "postgres?options=-c%20odd%3D1"])
async def test_traceback_of_a_failure_to_connect_shows_no_password(
    server: PostgresServer, database: str
) -> None:
    store = PostgresStore(server.dsn.removesuffix("postgres") + database)
    with pytest.raises(StoreError) as failure:
        await store.__aenter__()
    inside = failure.value.with_traceback(failure.tb.tb_next)
    shown = traceback.TracebackException.from_exception(inside, capture_locals=True)
    text = "".join(shown.format())
    assert "_connection" in text
    assert PASSWORD not in text


async def test_server_that_wants_tls_is_told_from_a_wrong_password(schema: str) -> None:
    with own() as server:
        (server._data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        server.stop()
        server.start()
        with pytest.raises(StoreError, match="without TLS: add sslmode=require"):
            await PostgresStore(f"{server.dsn}?sslmode=disable", schema=schema).__aenter__()


async def test_server_without_a_connection_to_spare_is_told(
    server: PostgresServer, schema: str
) -> None:
    session = await asyncpg.connect(server.dsn)
    await session.execute(f"CREATE ROLE {schema} LOGIN CONNECTION LIMIT 0 PASSWORD '{PASSWORD}'")
    await session.close()
    address = f"postgresql://{schema}:{PASSWORD}@127.0.0.1:{server.port}/postgres"
    with pytest.raises(StoreError, match="too many connections: raise max_connections"):
        await PostgresStore(address, schema=schema).__aenter__()


async def test_standby_is_refused_whether_or_not_a_primary_is_asked_for(schema: str) -> None:
    with own() as primary:
        async with standby_of(primary) as standby:
            with pytest.raises(StoreError, match="read-only: connect to the primary"):
                await PostgresStore(standby.dsn, schema=schema).__aenter__()
            to_a_primary = f"{standby.dsn}?target_session_attrs=primary"
            with pytest.raises(StoreError, match="no host of its address may be written to"):
                await PostgresStore(to_a_primary, schema=schema).__aenter__()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (asyncpg.CannotConnectNowError("the database system is starting up"), "starting"),
        (asyncpg.TooManyConnectionsError("sorry"), "too many connections"),
        (asyncpg.InvalidPasswordError("s3cret"), "refuses this user: check user and password"),
        (asyncpg.InvalidAuthorizationSpecificationError("s3cret"), "refuses this user: check"),
        (
            asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry, SSL off"),
            "without TLS: add sslmode=require",
        ),
        (asyncpg.InvalidCatalogNameError("s3cret"), "no such database: create it"),
        (asyncpg.InsufficientPrivilegeError("s3cret"), "grant it CONNECT"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter"), "a pooler's log"),
        (asyncpg.InternalServerError("Tenant or user not found"), "does not know the user"),
        (asyncpg.PostgresSyntaxError("s3cret"), "refuses a setting of its address"),
        (asyncpg.UndefinedObjectError("s3cret"), "refuses a setting of its address"),
        (asyncpg.ReadOnlySQLTransactionError("s3cret"), "read-only: connect to the primary"),
        (TimeoutError(), "does not answer"),
        (socket.gaierror(-2, "Name or service not known"), "host is unknown: correct its name"),
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens; check host and port"),
        (OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"), "nobody listens"),
        (FileNotFoundError(2, "No such file"), "there is no socket; check host"),
        (OSError(113, "No route to host"), "cannot be reached: No route to host;"),
        (RuntimeError("s3cret"), "unexpected RuntimeError$"),
        (ValueError("s3cret"), "unexpected ValueError$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failure_to_connect_is_never_a_damaged_schema_and_quotes_nothing(
    error: Exception, message: str
) -> None:
    told = failure("here", error, connecting=True)
    with pytest.raises(StoreError, match=message):
        raise told
    assert "damaged" not in str(told)
    assert "s3cret" not in str(told)
    assert type(told) is StoreError
