"""The address of a PostgreSQL server."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["name_of"]


def name_of(dsn: str) -> str:
    """Return what may be shown of an address: hosts and database."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise ValueError(UNREADABLE) from None  # the error quotes the address
    if parts.scheme not in {"postgresql", "postgres"}:
        msg = "the address of a PostgreSQL server begins with 'postgresql://'"
        raise ValueError(msg)
    login, _, hosts = parts.netloc.rpartition("@")
    if "@" in f"{login}{parts.path}{parts.query}{parts.fragment}" or not HOSTS.fullmatch(hosts):
        raise ValueError(UNREADABLE)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host = hosts or ":".join(query[name] for name in ("host", "port") if name in query)
    database = parts.path[1:] or query.get("dbname") or query.get("database", "")
    return unquote(f"postgresql://{host}/{database}")


UNREADABLE = (
    "the address of the PostgreSQL server cannot be read: percent-encode what is no letter or"
    " digit in its user and password"
)
HOSTS = re.compile(r"(?:(?:[\w.%-]*|\[[\w:.%]+\])(?::\d+)?,?)*")
