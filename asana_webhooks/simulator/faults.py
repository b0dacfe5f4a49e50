"""Faults: mishaps at Asana, or on the way to it, by name.

Each fault lasts from ``asana.faults.add(name)`` to ``asana.faults.discard(name)``. The last two
tables are of faults that can be on for one webhook alone: ``asana.webhooks[gid].faults.add(name)``.
Those that change the create call:

=================  ==================================  ============================================
name               what happens                        what it stands for
=================  ==================================  ============================================
no-handshake       the target is never called, the     the handshake did not get through (firewall,
                   create call is answered 400         DNS, proxy); Asana's wording of the 400
slow-handshake     the handshake waits until           how long a create call takes is not
                   ``release_handshake`` is set        documented; 1.1 to 2.1 s were seen
handshake-twice    the same handshake comes twice      Asana may repeat it with the same secret
stranger-first     another secret is posted to the     anyone can post ``X-Hook-Secret`` to a
                   target before the genuine one       target; ``stranger_secret`` is the last such
stranger-after     another secret is posted between    the same, by someone who comes later
                   the genuine handshake and the 201
strangers-flood    five other secrets come first       the same, by someone who insists
early-events       a signed delivery with one event    deliveries may come before the 201 does
                   is tried before the 201
slow-201           the 201 waits until                 the same as slow-handshake, after the
                   ``release_201`` is set              handshake
wrong-secret       the 201 carries another secret      the handshake that reached the target was of
                   than the handshake and the          somebody else's webhook
                   signatures
short-secret       the secret has 32 hex digits        a secret recorded in 2024; others have 64
no-secret          the 201 carries no secret           an answer recorded in 2021
lost-201           the webhook exists, the connection  a cut connection or a timeout: the outcome
                   is cut instead of the 201           is unknown to the caller
server-error       the webhook exists, the answer is   statuses met include 500, whose errors have
                   500 with a phrase                   a ``phrase``
=================  ==================================  ============================================

Those of every call:

=================  ==================================  ============================================
rate-limited       each call is refused once with 429  the limits for a token; refused calls carry
                   and ``Retry-After``, its repeat     ``Retry-After`` in seconds
                   goes through
unavailable        every call is answered 503 in HTML  a proxy may answer HTML
free-workspace     tasks cannot be searched: 402       "Search is only available to premium users."
outage             each call's connection is cut, but  outages of 8 and 17 hours with events lost
                   for those of ``control.py``;        were told of in Asana's forum
                   nothing is posted: what waits goes
                   out afterwards, what happens
                   meanwhile is never delivered, nor
                   is a heartbeat; the stream has it
=================  ==================================  ============================================

Those of the stream of events:

=================  ==================================  ============================================
name               what happens                        what it stands for
=================  ==================================  ============================================
sync-expired       each sync token is answered 412     tokens end after 24 hours, or sooner when
                   and with a new one                  there is much load
sync-forward-only  a sync token is answered 412 when   going back to earlier tokens may fail; the
                   the one after it has been used      current one can be used again
slow-stream        a call for events waits until       the same as slow-201, for a reader of the
                   ``release_stream`` is set           stream
stream-times       ``created_at`` is another one than  whether both say the same time is unknown;
                   the webhook's, by up to a second    likewise of the next two
stream-parents     no event has a parent               the parent may be said by the webhook only
stream-values      no event has a new, added or        the values may be said by the webhook only
                   removed value
=================  ==================================  ============================================

Those of a webhook and its deliveries, heartbeats included:

=================  ==================================  ============================================
not-found          calls about the webhook are         404 is among the statuses met; a webhook
                   answered 404, and lists lack it,    that Asana deleted looks like this
                   though it exists
dropped            a share of events is never          Asana delivers at most once, and says that
                   delivered, see ``drop_share``; the  a small number of events may be missed
                   stream has them
sync-error         in the place of events comes one    Asana could not keep up, and events are
                   with the action ``sync_error`` and  missing; the wording of the message is not
                   a message; the stream has them      documented
delayed            nothing is posted until it is       Asana's staff say that events may be delayed
                   over, then all that waits           in an outage
duplicate          each attempt is posted twice, the   at most once is the aim, but a delivery whose
                   same bytes; the second answer       acknowledgement failed is sent again
                   counts
reordered          a delivery waits until the next     there is no promise of order
                   one has overtaken it, for twice
                   ``gather_for`` and a second at most
superset           a retry has the events of all       whether a retry is byte-identical is unknown
                   deliveries that wait behind it too,
                   in one body with another signature
tampered           a blank is put into the body after  the signature is of the raw bytes: what
                   it was signed                       parses alike must be refused all the same
=================  ==================================  ============================================

And those on the way to the target and back; it sees a delivery that Asana takes for a failure, and
so sees it again:

====================  ===============================  ============================================
server-error-answers  any answer arrives as 503        success is 200 or 204, whoever answers: a
                                                       proxy before the target may have failed
rate-limited-answers  any answer arrives as 429        the same, for a proxy that limits the rate
slow-answers          any answer comes too late        an answer has 10 seconds
cut-connections       the connection ends when half    the network may fail at any moment; there is
                      of the body is sent              no success without an answer
====================  ===============================  ============================================

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/docs/errors, https://developers.asana.com/docs/rate-limits,
https://developers.asana.com/reference/events
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, MutableSet, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import ClassVar, NamedTuple

from .loops import call_in

__all__ = ["Fault", "Faults", "WebhookFaults"]


class Fault(StrEnum):
    """The name of one thing that goes wrong; the table above says what it does."""

    NO_HANDSHAKE = "no-handshake"
    SLOW_HANDSHAKE = "slow-handshake"
    HANDSHAKE_TWICE = "handshake-twice"
    STRANGER_FIRST = "stranger-first"
    STRANGER_AFTER = "stranger-after"
    STRANGERS_FLOOD = "strangers-flood"
    EARLY_EVENTS = "early-events"
    SLOW_201 = "slow-201"
    WRONG_SECRET = "wrong-secret"  # noqa: S105 - the name of a fault, not a password
    SHORT_SECRET = "short-secret"  # noqa: S105 - likewise
    NO_SECRET = "no-secret"  # noqa: S105 - likewise
    LOST_201 = "lost-201"
    SERVER_ERROR = "server-error"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"
    FREE_WORKSPACE = "free-workspace"
    OUTAGE = "outage"
    SYNC_EXPIRED = "sync-expired"
    SYNC_FORWARD_ONLY = "sync-forward-only"
    SLOW_STREAM = "slow-stream"
    STREAM_TIMES = "stream-times"
    STREAM_PARENTS = "stream-parents"
    STREAM_VALUES = "stream-values"
    NOT_FOUND = "not-found"
    DROPPED = "dropped"
    SYNC_ERROR = "sync-error"
    DELAYED = "delayed"
    DUPLICATE = "duplicate"
    REORDERED = "reordered"
    SUPERSET = "superset"
    TAMPERED = "tampered"
    SERVER_ERROR_ANSWERS = "server-error-answers"
    RATE_LIMITED_ANSWERS = "rate-limited-answers"
    SLOW_ANSWERS = "slow-answers"
    CUT_CONNECTIONS = "cut-connections"


class Once(NamedTuple):
    """A fault of one call: ``path`` is below the API, ``*`` stands for any letters.

    It is answered with ``status``, or its connection is cut if that is None.
    """

    method: str
    path: str
    status: int | None


class Faults(MutableSet[str]):
    """The faults that are on: a set that takes a ``Fault`` or its name.

    Raises ValueError when a name that is no fault is added or discarded.
    """

    _known: ClassVar[Sequence[Fault]] = tuple(Fault)
    _named: ClassVar[str] = "fault"

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._on = {self._fault(name) for name in names}
        self._ends: list[tuple[str, Callable[[], None]]] = []
        self._lock = threading.Lock()
        self._once: list[Once] = []

    def add(self, value: str) -> None:
        """Switch this fault on."""
        self._on.add(self._fault(value))

    def discard(self, value: str) -> None:
        """Switch this fault off, if it is on."""
        with self._lock:
            self._on.discard(self._fault(value))
            ended = [end for name, end in self._ends if name == value]
            self._ends = [each for each in self._ends if each[0] != value]
        for end in ended:
            end()

    def once(self, method: str, path: str, *, status: int | None = 503) -> None:
        """Make the next call of this kind go wrong: answer it with a status, or cut it off if None.

        ``path`` is one below the API, such as ``/tasks/*``. Called twice, it is the next two.
        Raises ValueError for a status that is no error, and for a path that no call has.
        """
        if not path.startswith("/"):
            msg = f"path must be one below the API, such as '/tasks/*', not {path!r}"
            raise ValueError(msg)
        if status is not None and not 400 <= status <= 599:
            msg = f"status must be that of an error, 400 to 599, or None, not {status}"
            raise ValueError(msg)
        with self._lock:
            self._once.append(Once(method, path, status))

    def take(self, method: str, path: str) -> Once | None:
        """Return the fault that this call is to have once, and forget it; None when it has none."""
        with self._lock:
            for each in self._once:
                if each.method == method and fnmatchcase(path, each.path):
                    self._once.remove(each)
                    return each
        return None

    def clear(self) -> None:
        """Switch all faults off, those of single calls too."""
        for name in [*self]:
            self.discard(name)
        with self._lock:
            self._once.clear()

    def call_at_end(self, fault: Fault, callback: Callable[[], object]) -> bool:
        """Return whether this fault is on; if so, call back once when it is switched off.

        That is done in the event loop that runs now, whichever thread switches the fault off.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if fault in self._on:
                self._ends.append((fault, lambda: call_in(loop, callback)))
                return True
        return False

    def __contains__(self, value: object) -> bool:
        return value in self._on

    def __iter__(self) -> Iterator[str]:
        return iter(self._on)

    def __len__(self) -> int:
        return len(self._on)

    def __repr__(self) -> str:
        """Return the names that are on, in alphabetical order."""
        return f"Faults({', '.join(sorted(self._on))})"

    def _fault(self, name: str) -> Fault:
        if name in self._known:
            return Fault(name)
        msg = f"no {self._named} is called {name!r}; there are {', '.join(self._known)}"
        raise ValueError(msg)


class WebhookFaults(Faults):
    """The faults that are on for one webhook.

    Raises ValueError when a name that is no fault of a single webhook is added or discarded.
    """

    _known = (
        Fault.NOT_FOUND,
        Fault.DROPPED,
        Fault.SYNC_ERROR,
        Fault.DELAYED,
        Fault.DUPLICATE,
        Fault.REORDERED,
        Fault.SUPERSET,
        Fault.TAMPERED,
        Fault.SERVER_ERROR_ANSWERS,
        Fault.RATE_LIMITED_ANSWERS,
        Fault.SLOW_ANSWERS,
        Fault.CUT_CONNECTIONS,
    )
    _named = "fault of a single webhook"
