"""The address of a PostgreSQL server: libpq's, as providers hand it out, in asyncpg's terms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

__all__ = ["Address"]

DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 4.0, 30.0
"""Seconds for a connection: unless ``connect_timeout`` is given, and at the most."""

KNOWN_TO_ASYNCPG = {
    *("host", "port", "user", "password", "dbname", "database", "passfile", "options"),
    *("application_name", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
    *("krbsrvname", "gsslib"),
}
TRANSLATED = {"connect_timeout", "fallback_application_name", "pgbouncer", "ssl"}
IGNORED = {
    *("channel_binding", "client_encoding", "gssencmode", "load_balance_hosts"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("max_protocol_version", "min_protocol_version", "sslcertmode", "sslcompression", "sslsni"),
    "tcp_user_timeout",
    *("connection_limit", "pool_timeout", "supa"),  # of other libraries, and of Supabase
}
"""Parameters without an effect here: asyncpg cannot do what they ask for, or does it anyway."""

VALUES = {
    "channel_binding": {"disable", "prefer", "require"},
    "gssencmode": {"disable", "prefer"},
    "pgbouncer": {"true", "false"},
    "ssl": {"true"},
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full", "no-verify"},
    "target_session_attrs": {"any", "primary", "read-write"},  # others may not be written to
}
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

UNREADABLE = (
    "the address of the PostgreSQL server cannot be read: percent-encode what is no letter or"
    " digit in its user and password"
)
HOSTS = re.compile(r"(?:(?:[\w.%-]*|\[[\w:.%]+\])(?::\d+)?,?)*")


@dataclass(frozen=True)
class Address:
    """A ``postgresql://`` address that was read.

    ``name`` is what may be shown of it: hosts and database. ``dsn`` is what asyncpg connects to;
    with ``system_roots`` the server's certificate must be one that this machine trusts. Behind a
    pooler that knows no prepared statements, ``pooled`` is true. ``files`` are those that it names.
    """

    name: str
    dsn: str = field(repr=False)
    connect_timeout: float = DEFAULT_TIMEOUT
    pooled: bool = False
    system_roots: bool = False
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, address: str) -> Address:
        """Return what an address says.

        Raises ValueError, which quotes neither user nor password, when it cannot be read, or
        names a parameter or a value that is not known.
        """
        location, _, query = address.partition("?")
        try:
            parts = urlsplit(location)
        except ValueError:
            raise ValueError(UNREADABLE) from None  # the error quotes the address
        if parts.scheme not in {"postgresql", "postgres"}:
            msg = "the address of a PostgreSQL server begins with 'postgresql://'"
            raise ValueError(msg)
        login, _, hosts = parts.netloc.rpartition("@")
        odd = "@" in f"{login}{parts.path}{query}" or "#" in address
        if odd or not HOSTS.fullmatch(hosts):
            raise ValueError(UNREADABLE)
        given = _parameters(query)
        return cls(
            name=_name(hosts, parts.path[1:], given),
            dsn=_dsn(location, given),
            connect_timeout=_seconds(given.get("connect_timeout")),
            pooled=given.get("pgbouncer") == "true",
            system_roots=_trusts_system_roots(given),
            files=tuple(
                (name, given[name])
                for name in FILES
                if name in given and given[name] != SYSTEM_ROOTS.get(name)
            ),
        )


SYSTEM_ROOTS = {"sslrootcert": "system"}


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters by name, without those that are empty. Raises ValueError."""
    given = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        name, value = unquote(name), unquote(value)
        if name not in KNOWN_TO_ASYNCPG | TRANSLATED | IGNORED:
            msg = (
                f"the address of the PostgreSQL server has a parameter {name!r}, which is not"
                " known: correct it; a setting of the server is written"
                f" options=-c%20{quote(name)}%3D…"
            )
            raise ValueError(msg)
        if value:
            given[name] = value
    for name, values in VALUES.items():
        if name in given and given[name] not in values:
            choice = ", ".join(sorted(values))
            msg = f"{name} in the address of the PostgreSQL server is one of: {choice}"
            raise ValueError(msg)
    if not re.fullmatch(r"\d+(,\d+)*", given.get("port", "0"), re.ASCII):
        msg = "port in the address of the PostgreSQL server is a number, or several with commas"
        raise ValueError(msg)
    return given


def _dsn(location: str, given: dict[str, str]) -> str:
    """Return the address with the parameters that asyncpg knows."""
    passed = {name: value for name, value in given.items() if name in KNOWN_TO_ASYNCPG}
    if _trusts_system_roots(given):
        del passed["sslrootcert"]
    if "ssl" in given:  # of JDBC; libpq takes it for this
        passed.setdefault("sslmode", "require")
    if passed.get("sslmode") == "no-verify":  # of node-postgres; Heroku's
        passed["sslmode"] = "require"
    if "fallback_application_name" in given:
        passed.setdefault("application_name", given["fallback_application_name"])
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in passed.items())
    return f"{location}?{query}" if query else location


def _trusts_system_roots(given: dict[str, str]) -> bool:
    """Return whether the certificates that this machine trusts are to be used.

    Raises ValueError, as libpq refuses it, when the host is not to be verified then.
    """
    if given.get("sslrootcert") != SYSTEM_ROOTS["sslrootcert"]:
        return False
    if given.get("sslmode", "verify-full") != "verify-full":
        msg = "sslrootcert=system in the address of the PostgreSQL server needs sslmode=verify-full"
        raise ValueError(msg)
    return True


def _seconds(connect_timeout: str | None) -> float:
    """Return the seconds for a connection; as with libpq, 0 is no limit, and 1 is 2."""
    if connect_timeout is None:
        return DEFAULT_TIMEOUT
    if not re.fullmatch(r"\d{1,9}", connect_timeout, re.ASCII):
        msg = "connect_timeout in the address of the PostgreSQL server is a number of seconds"
        raise ValueError(msg)
    seconds = float(connect_timeout) or LONGEST_TIMEOUT
    return min(max(seconds, 2.0), LONGEST_TIMEOUT)


def _name(hosts: str, database: str, given: dict[str, str]) -> str:
    """Return hosts and database. Raises ValueError when its ports are of no use."""
    host = hosts or ":".join(given[name] for name in ("host", "port") if name in given)
    of_hosts = (hosts or given.get("host", "")).count(",")
    if given.get("port", "").count(",") not in (0, of_hosts):
        msg = "port in the address of the PostgreSQL server is one number, or one for each host"
        raise ValueError(msg)
    ports = [*re.findall(r":(\d+)(?:,|$)", hosts), *given.get("port", "").split(",")]
    if any(int(port or 0) > 65535 for port in ports):
        msg = "a port in the address of the PostgreSQL server is above 65535"
        raise ValueError(msg)
    named = given.get("dbname") or given.get("database", "")
    return unquote(f"postgresql://{host}/{database or named}")
