"""The calls of the store about the states of scopes, in SQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ...models import Delivery, State
from ._file import SQL
from ._rows import from_retry, is_version
from ._statements import Statements, wall_clock

__all__ = ["States"]

logger = logging.getLogger(__name__)


class States(Statements):
    """The calls about states: each a part of a transaction of the writer."""

    def get_state(self, scope: str) -> State | None:
        row = self._run("get_state", scope).fetchone()
        return self._state(*row) if row else None

    def list_states(self, account: str | None = None) -> list[State]:
        if account is None:
            rows = self._run("list_states").fetchall()
        else:
            rows = self._execute(SQL["list_states_in"], {"account": account}).fetchall()
        states = [self._state(*row) for row in rows if isinstance(row[0], str)]
        if len(states) < len(rows):
            logger.error(
                "%d states are left out: their scopes were damaged in the store",
                len(rows) - len(states),
            )
        return states

    def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
        name = "change_state" if state.version else "make_state"
        if not self._run(name, state.text, state.scope, state.version).rowcount:
            return False
        rows = [from_retry(delivery.route, delivery, self._now) for delivery in deliveries]
        self._try_again(rows)
        routes = dict.fromkeys(delivery.route for delivery in deliveries)
        self._insert("offer", [(route, self._now) for route in routes])
        return True

    def drop_state(self, scope: str, version: int) -> bool:
        return self._run("drop_state", scope, version).rowcount == 1

    def _state(self, scope: str, version: Any, text: Any) -> State:
        """Return the state of a row; its text is empty when it cannot be read, which is said.

        A version that cannot be read begins again above any that a reader may have.
        """
        if not is_version(version):
            version = wall_clock()  # there was no change in each microsecond
            self._run("set_state_version", version, scope)
            logger.error("the version of the state of %r was damaged, and begins again", scope)
        if not isinstance(text, str):
            logger.error("the text of the state of %r was damaged, and is taken for empty", scope)
        return State(scope=scope, version=version, text=text if isinstance(text, str) else "")
