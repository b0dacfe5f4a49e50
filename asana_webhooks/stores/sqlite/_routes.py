"""The calls of the store about its owners, its routes and their secrets, in SQL."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from ...errors import StoreError
from ...models import Route, WebhookFilter
from .. import MAX_CANDIDATES, RETIRED_KNOWN_FOR
from .._codec import encode_filters, prefix_of, to_micros
from .._encryption import EncryptedSecret, SecretCipher, report_unreadable, webhook_name
from ._file import SQL
from ._rows import UnreadableRowError, route_of
from ._statements import Statements, wall_clock

__all__ = ["Routes"]

logger = logging.getLogger(__name__)

ROUTE_DAMAGED = (
    "the row of a webhook in table routes is damaged: restore a copy of the file, or delete the"
    " webhook and establish it again"
)


class Routes(Statements):
    """The calls about owners, routes and secrets: each a part of a transaction of the writer."""

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float], cipher: SecretCipher
    ) -> None:
        super().__init__(connection, clock)
        self._cipher = cipher
        self._set_aside: set[str] = set()

    # Ownership

    def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        self._run("forget_owners", self._now)
        other = self._run("find_other_owner", public_url, holder).fetchone()
        if other is not None:
            return str(other[0])
        self._run("own", holder, public_url, self._now + ttl)
        return None

    def disown(self, holder: str) -> None:
        self._run("disown", holder)
        self._run("forget_owners", self._now)
        self._run("let_go_of_all", holder)

    def hold(self, name: str, *, holder: str, ttl: float, limit: int | None = None) -> int:
        self._run("forget_holders_of", name, self._now)
        others: int = self._run("count_other_holders", name, holder).fetchone()[0]
        if limit is not None and others >= limit:
            self._run("let_go", name, holder)
            return 0
        self._run("hold", name, holder, self._now + ttl)
        return others + 1

    # Routes

    def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        self._run("forget_routes", self._now)
        values = {
            "id": route.id,
            "target": route.target,
            "prefix": prefix_of(route.target),
            "resource": route.resource,
            "account": route.account,
            "user": route.user,
            "filters": encode_filters(route.filters),
            "created_at": to_micros(route.created_at),
            "heartbeat_at": route.heartbeat_at and to_micros(route.heartbeat_at),
            "expires": self._now + ttl,
            "exclusive": exclusive,
        }
        return self._execute(SQL["reserve"], values).rowcount == 1

    def get_route(self, route: str) -> Route | None:
        try:
            route.encode()
        except UnicodeEncodeError:  # a stranger's path; no route has such an id
            return None
        row = self._execute(SQL["get_route"], {"route": route, "now": self._now}).fetchone()
        return self._route(row) if row else None

    def list_routes(
        self, resource: str | None = None, *, account: str | None = None
    ) -> list[Route]:
        name = "list_routes"
        if resource is not None:
            name = "list_routes_of"
        elif account is not None:
            name = "list_routes_in"
        values = {"now": self._now, "resource": resource, "account": account}
        rows = self._execute(SQL[name], values).fetchall()
        return [route for row in rows if (route := self._listed(row))]

    def add_candidate(self, route: str, secret: str) -> bool:
        found = self.get_route(route)
        if found is None:
            return False
        if found.state == "reserved" and secret not in found.candidates:
            if len(found.candidates) == MAX_CANDIDATES:
                return False
            self._run("add_candidate", route, *self._cipher.encrypt(route, secret))
            return True
        return secret == found.secret or secret in found.candidates

    def confirm(self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()) -> bool:
        (candidate,) = self._find_candidate(route, secret) or (None,)
        if candidate is None:
            return False
        self._run("confirm", gid, wall_clock(), candidate, route)
        if freed := self._run("free_held", self._now, candidate).rowcount:
            self._waiting_change += freed
            self._insert("offer", [(route, self._now)])
        self._run("drop_candidates", route)
        for other in leaving:
            self.leave(other)
        return True

    def set_user(self, route: str, user: str) -> None:
        self._run("set_user", user, route)

    def leave(self, route: str) -> bool:
        return self._run("leave", route).rowcount == 1

    def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        self._run("set_filters", encode_filters(filters), route)

    def note_heartbeat(self, route: str, at: datetime) -> None:
        self._run("set_heartbeat", to_micros(at), route)

    def retire(self, route: str, *, lost: bool = False) -> bool:
        expires = self._now + RETIRED_KNOWN_FOR.total_seconds()
        retired_as = "lost" if lost else "deleted"
        return self._run("retire", retired_as, expires, route).rowcount == 1

    def drop(self, route: str) -> Route | None:
        found = self.get_route(route)
        if found is None or found.state != "reserved":
            return None
        self._run("drop", route)
        return found

    def _route(self, row: tuple[Any, ...]) -> Route:
        """Return the route of a row. Raises StoreError when it, or a secret, cannot be read."""
        *fields, secret, ciphertext = row
        try:
            route = route_of(tuple(fields))
        except UnreadableRowError:
            raise StoreError(ROUTE_DAMAGED) from None
        if secret is not None:
            kept = EncryptedSecret(secret, ciphertext)
            return replace(route, secret=self._cipher.decrypt(route.id, kept))
        if route.state == "reserved":
            rows = self._run("list_candidates", route.id).fetchall()
            candidates = (self._cipher.decrypt(route.id, EncryptedSecret(*row)) for row in rows)
            return replace(route, candidates=tuple(candidates))
        return route

    def _listed(self, row: tuple[Any, ...]) -> Route | None:
        """Return the route of a row, without its secrets where those cannot be read.

        None where even the row cannot be. Either is said once.
        """
        try:
            return self._route(row)
        except StoreError as error:
            id_, _, resource, _, _, gid, *_ = row
            if id_ not in self._set_aside:
                self._set_aside.add(id_)
                logger.error("%s is set aside: %s", webhook_name(gid, resource), error)
        try:
            return route_of(row[:-2])
        except UnreadableRowError:
            return None

    def _find_candidate(self, route: str, secret: str) -> tuple[int | None] | None:
        """Return the id of a candidate, None in its place when it is confirmed; None for others."""
        fingerprint = self._cipher.fingerprint(route, secret)
        values = {"route": route, "secret": fingerprint, "now": self._now}
        row: tuple[int | None] | None = self._execute(SQL["find_candidate"], values).fetchone()
        return row

    def reencrypt_secrets(self) -> None:
        """Encrypt with the newest key what is not, and leave nothing of it in the file.

        What cannot be decrypted is said and left. Raises StoreError when nothing encrypted can be.
        """
        self._run("erase")
        renewed, decrypted, unreadable = 0, 0, []
        with self.transaction():
            for kind in ("confirmed", "candidate"):
                rows = self._run(f"list_{kind}_secrets").fetchall()
                for id_, route, gid, resource, *columns in rows:
                    kept = EncryptedSecret(*columns)
                    try:
                        new = self._cipher.reencrypt(route, kept)
                    except StoreError:
                        unreadable.append((webhook_name(gid, resource), kept.ciphertext))
                        continue
                    decrypted += kept.ciphertext is not None
                    if new is not None:
                        self._run(f"set_{kind}_secret", *new, id_)
                        renewed += 1
            report_unreadable(unreadable, decrypted=decrypted)
        if renewed:
            self._run("empty_log")
        self._run("erase_no_more")
