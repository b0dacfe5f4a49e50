"""The scripts of RedisStore, in Lua: one for each call of the contract.

The functions are in the files beside this module, those that several scripts need in
``shared.lua``. A script is the text of ``shared.lua``, of one other file, and a call of one of its
functions.

The only declared key is the prefix, with the hash tag that keeps all other keys in its slot: which
route a claim finds cannot be declared. Times are microseconds of the store's clock.

The clock is the server's, and never goes back: a step backwards, or a failover to a server whose
clock is behind, is added to all later readings. Ids and fences are above it, so that a server which
lost the last of them, in a failover say, gives none of them twice. Scripts that empty the inbox
also run when the server's memory is full.

A secret comes as its fingerprint and its ciphertext, '' without one; scripts compare fingerprints.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

__all__ = ["Script"]


@dataclass(frozen=True)
class Script:
    """A script, and the digest by which a server knows it once it has run it."""

    text: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())


READS = "#!lua flags=no-writes\n"
WRITES = "#!lua\n"
DRAINS = "#!lua flags=allow-oom\n"


def _read(name: str) -> str:
    return files("asana_webhooks.stores.redis").joinpath(name).read_text("utf-8")


def _script(file: str, call: str, flags: str) -> Script:
    return Script(f"{flags}{_read('shared.lua')}\n{_read(file)}\nreturn calls.{call}()\n")


OPEN = _script("opening.lua", "open", DRAINS)
UPGRADE = _script("opening.lua", "upgrade", DRAINS)
UPGRADE_ROUTES = _script("opening.lua", "upgrade_routes", DRAINS)
UPGRADE_TRIES = _script("opening.lua", "upgrade_tries", DRAINS)
UPGRADE_LETTERS = _script("opening.lua", "upgrade_letters", DRAINS)
UPGRADED = _script("opening.lua", "upgraded", DRAINS)
LIST_SECRETS = _script("opening.lua", "list_secrets", DRAINS)
RENEW_SECRETS = _script("opening.lua", "renew_secrets", DRAINS)

RESERVE = _script("routes.lua", "reserve", WRITES)
GET_ROUTES = _script("routes.lua", "get_routes", READS)
LIST_ROUTES = _script("routes.lua", "list_routes", READS)
ADD_CANDIDATE = _script("routes.lua", "add_candidate", WRITES)
CONFIRM = _script("routes.lua", "confirm", WRITES)
LEAVE = _script("routes.lua", "leave", WRITES)
CHANGE = _script("routes.lua", "change", WRITES)
RETIRE = _script("routes.lua", "retire", WRITES)
DROP = _script("routes.lua", "drop", DRAINS)
OWN = _script("routes.lua", "own", WRITES)
DISOWN = _script("routes.lua", "disown", DRAINS)
HOLD = _script("routes.lua", "hold", WRITES)

PUT = _script("inbox.lua", "put", WRITES)
CLAIM = _script("inbox.lua", "claim", DRAINS)
CLAIM_MORE = _script("inbox.lua", "claim_more", DRAINS)
RENEW = _script("inbox.lua", "renew", DRAINS)
SETTLE = _script("inbox.lua", "settle", DRAINS)
REMEMBERED = _script("inbox.lua", "remembered", READS)
COUNTS = _script("inbox.lua", "counts", DRAINS)

PUT_WRITE = _script("writes.lua", "put_write", WRITES)
LIST_WRITES = _script("writes.lua", "list_writes", DRAINS)
TAKE_WRITE = _script("writes.lua", "take_write", WRITES)
FORGET_ACCOUNT = _script("writes.lua", "forget_account", DRAINS)

GET_STATE = _script("states.lua", "get_state", DRAINS)
LIST_STATES = _script("states.lua", "list_states", DRAINS)
PUT_STATE = _script("states.lua", "put_state", WRITES)
DROP_STATE = _script("states.lua", "drop_state", DRAINS)
PEEK = _script("states.lua", "peek", READS)

LETTERS = _script("dead_letters.lua", "letters", READS)
REPLAY = _script("dead_letters.lua", "replay", WRITES)
DISCARD = _script("dead_letters.lua", "discard", DRAINS)
