"""What can go wrong at Asana, or on the way to it, by name.

Each fault lasts from ``asana.faults.add(name)`` to ``asana.faults.discard(name)``. Those that
change the create call:

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
no-secret          the 201 carries no secret           an answer recorded in 2021
lost-201           the webhook exists, the connection  a cut connection or a timeout: the outcome
                   is cut instead of the 201           is unknown to the caller
server-error       the webhook exists, the answer is   statuses met include 500, whose errors have
                   500 with a phrase                   a ``phrase``
=================  ==================================  ============================================

And those of every call, or of calls about one webhook:

=================  ==================================  ============================================
not-found          calls about one webhook are         404 is among the statuses met; a webhook
                   answered 404, though it exists      that Asana deleted looks like this
rate-limited       each call is refused once with 429  the limits for a token; refused calls carry
                   and ``Retry-After``, its repeat     ``Retry-After`` in seconds
                   goes through
unavailable        every call is answered 503 in HTML  a proxy may answer HTML
=================  ==================================  ============================================

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/docs/errors, https://developers.asana.com/docs/rate-limits
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from enum import StrEnum

__all__ = ["Fault", "Faults"]


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
    NO_SECRET = "no-secret"  # noqa: S105 - likewise
    LOST_201 = "lost-201"
    SERVER_ERROR = "server-error"
    NOT_FOUND = "not-found"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"


class Faults(MutableSet[str]):
    """The faults that are on: a set that takes a ``Fault`` or its name.

    Raises ValueError when a name that is no fault is added or discarded.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._on = {_fault(name) for name in names}

    def add(self, value: str) -> None:
        """Switch this fault on."""
        self._on.add(_fault(value))

    def discard(self, value: str) -> None:
        """Switch this fault off, if it is on."""
        self._on.discard(_fault(value))

    def __contains__(self, value: object) -> bool:
        return value in self._on

    def __iter__(self) -> Iterator[str]:
        return iter(self._on)

    def __len__(self) -> int:
        return len(self._on)

    def __repr__(self) -> str:
        """Return the names that are on, in alphabetical order."""
        return f"Faults({', '.join(sorted(self._on))})"


def _fault(name: str) -> Fault:
    try:
        return Fault(name)
    except ValueError:
        msg = f"no fault is called {name!r}; there are {', '.join(Fault)}"
        raise ValueError(msg) from None
