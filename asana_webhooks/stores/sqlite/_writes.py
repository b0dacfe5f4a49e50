"""The calls of the store about what the program wrote, and about all of an account, in SQL."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import msgspec

from ...models import Write
from ._file import SQL
from ._statements import KNOWN_FOR, Statements, chunks, placeholders, wall_clock

__all__ = ["Writes"]

logger = logging.getLogger(__name__)

_resources = msgspec.json.Decoder(tuple[str, ...])


class Writes(Statements):
    """The calls about writes: each a part of a transaction of the writer."""

    def put_write(self, write: Write) -> None:
        now = wall_clock()
        self._forget("forget_writes", 1, now)
        values = {
            "id": write.id,
            "account": write.account,
            "at": now,
            "resources": msgspec.json.encode(write.resources).decode(),
            "text": write.text,
        }
        self._run("drop_old_write", write.id, now, KNOWN_FOR)
        self._execute(SQL["put_write"], values)
        number = self._find_write(write.id)
        self._run("drop_written", number)
        self._insert("add_written", [(resource, number) for resource in write.resources])

    def list_writes(self, resources: Collection[str]) -> list[Write]:
        numbers: set[int] = set()
        for chunk in chunks(tuple(resources)):
            rows = self._execute(placeholders(SQL["find_written"], len(chunk)), chunk)
            numbers.update(number for (number,) in rows)
        found: list[Any] = []
        now = wall_clock()
        for some in chunks(sorted(numbers)):
            statement = placeholders(SQL["list_writes"], len(some))
            found += self._execute(statement, (now, KNOWN_FOR, *some)).fetchall()
        return [write for _, *row in sorted(found) if (write := _write_of(*row))]

    def take_write(self, id: str, part: str, key: bytes) -> bool:
        number = self._find_write(id)
        if number is None:
            return False
        self._run("add_caused", number, part, key)
        (kept,) = self._run("get_caused", number, part).fetchone()
        return bool(kept == key)

    def _find_write(self, id_: str) -> int | None:
        row = self._run("get_write", id_, wall_clock(), KNOWN_FOR).fetchone()
        return row and int(row[0])

    def forget_account(self, account: str) -> bool:
        values = {"account": account, "now": self._now}
        (in_use,) = self._execute(SQL["is_in_use"], values).fetchone()
        if in_use:
            return False
        for of in ("dead_letters", "routes", "writes", "states", "remembered"):
            self._execute(SQL[f"drop_{of}_of"], values)
        return True


def _write_of(id_: Any, account: str, resources: Any, text: Any) -> Write | None:
    """Return the write of a row; None when it cannot be read, which is said."""
    try:
        if isinstance(id_, str) and isinstance(text, str):
            named = _resources.decode(resources)
            return Write(id=id_, account=account, resources=named, text=text)
    except (msgspec.MsgspecError, TypeError, UnicodeError):
        pass
    logger.error("a write is left out: its row was damaged in the store")
    return None
