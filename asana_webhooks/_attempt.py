"""A claimed delivery: its events, and how far each of them has come."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from ._remembered import Came
from .errors import DecodeError
from .models import (
    DeadLetter,
    Delivery,
    Event,
    Progress,
    Source,
    decode_events,
    read_event,
    split_events,
)

__all__ = ["DAMAGED", "Attempt", "SyncError", "Undecodable", "event_letter"]

NO_DIGEST = bytes(32)
"""The digest of an event that is tried again, and of what was replayed."""

DAMAGED = "how many of its events were handled was damaged in the store"


class Undecodable(msgspec.Struct, frozen=True):
    """An event that could not be decoded, as a delivery's body of its own, and the reason."""

    body: bytes
    reason: str


class SyncError(msgspec.Struct, frozen=True):
    """Asana's word that it could not keep up, and that events are missing."""

    message: str


class Attempt:
    """One try to have a delivery's events handled; those are counted from 0.

    ``entries`` are what is remembered of them, empty where nothing is; they are the inbox's to set.
    ``left`` is how many are not done yet, ``failed`` how many of the others are to be tried
    again, or are dead letters; ``first`` is the first one that was not done when it was claimed.
    ``pending`` names the only handlers it is for; empty: all. It ``comes_again`` when it was taken
    out of a delivery, or was replayed by a person. ``via`` is where it came from, ``came`` is that
    as it is remembered; ``fresh`` is set for what was taken from the stream and comes first.
    """

    __slots__ = (
        *("_done", "_partly", "_unsettled", "came", "comes_again", "delivery", "entries", "failed"),
        *("first", "fresh", "is_damaged", "items", "left", "pending", "via"),
    )

    def __init__(self, delivery: Delivery, source: Source) -> None:
        self.delivery = delivery
        self.via: Literal["webhook", "stream"] = "webhook"
        self.fresh: Literal["", "exact", "near"] = ""
        self.came = Came.DELIVERED
        progress = _progress_of(delivery) if delivery.progress else None
        if progress is not None and progress.via == "stream":
            self.via, self.fresh = progress.via, progress.fresh
            self.came = Came.DOUBTFUL if progress.fresh == "near" else Came.STREAMED
            source = replace(source, via="stream")
        self.items = _decode(delivery, source)
        self.entries: list[bytes] = []
        self.left = len(self.items)
        self.failed = self.first = 0
        self.pending: tuple[str, ...] = ()
        self.is_damaged = progress is None and delivery.progress != ""
        self.comes_again = delivery.digest == NO_DIGEST and not self.fresh
        self._done: set[int] = set()
        self._unsettled: list[int] = []
        self._partly: dict[int, tuple[str, ...]] | None = None
        if progress is not None:
            self._go_on_from(progress)

    def _go_on_from(self, progress: Progress) -> None:
        count = len(self.items)
        if 0 <= progress.upto <= count and all(0 <= index < count for index in progress.done):
            self._done = {*range(progress.upto), *progress.done}
            self._partly, self.pending = dict(progress.partly), progress.pending
            self.left, self.first = count - len(self._done), self._upto()
        else:
            self.is_damaged = True

    def todo(self) -> Sequence[int]:
        """Return the events that are not done."""
        if not self._done:
            return range(len(self.items))
        return [index for index in range(len(self.items)) if index not in self._done]

    @property
    def is_alone(self) -> bool:
        """Whether it is one event that failed before, whose row in the store is its own."""
        return self.comes_again and len(self.items) == 1

    @property
    def is_dangerous(self) -> bool:
        """Whether each event's end is kept before the next begins, as that may end the process."""
        return self.delivery.crashes > 0

    @property
    def kills(self) -> int:
        """Ends of the process while the first event was handled alone.

        A lease that ran out under a handler that blocked the process counts too. The first end is
        not counted: others were claimed beside it.
        """
        return max(0, self.delivery.crashes - 1)

    def attempts_of(self, index: int) -> int:
        """Return how often an event has failed before, or has ended the process."""
        return self.delivery.attempts + self.kills if index == self.first else 0

    def handled_by(self, index: int) -> tuple[str, ...]:
        """Return the handlers of an event that are done with it, while others are not."""
        return self._partly.get(index, ()) if self._partly else ()

    def note_handled(self, index: int, handler: str) -> None:
        """Note that one handler of an event is done, and others are not."""
        if self._partly is None:
            self._partly = {}
        self._partly[index] = (*self._partly.get(index, ()), handler)

    def finish(self, index: int) -> None:
        """Note that an event is done."""
        self.left -= 1
        self._unsettled.append(index)
        if self._partly:
            self._partly.pop(index, None)

    def take_entries(self) -> bytes:
        """Return what is remembered of the events that are done since it was asked last."""
        done, self._unsettled = self._unsettled, []
        self._done.update(done)
        return b"".join([self.entries[index] for index in done])

    def kept(self) -> Delivery:
        """Return the delivery as it stays claimed."""
        upto = self._upto()
        progress = Progress(
            upto=upto,
            done=tuple(sorted(index for index in self._done if index > upto)),
            partly=self._partly or {},
            pending=self.pending,
            via=self.via,
            fresh=self.fresh,
        )
        delivery = self.delivery
        return replace(
            delivery,
            progress=progress.encode(),
            attempts=delivery.attempts if upto == self.first else 0,
            crashes=min(delivery.crashes, 1),
        )

    def letter(self, reason: str) -> DeadLetter:
        """Return the whole delivery as a dead letter; a replay handles all of it."""
        return _letter(self.delivery, self.delivery.body, reason)

    def letter_of(self, item: Undecodable) -> DeadLetter:
        """Return what could not be decoded as a dead letter of its own."""
        return _letter(self.delivery, item.body, item.reason)

    def _upto(self) -> int:
        upto = 0
        while upto in self._done:
            upto += 1
        return upto


def event_letter(
    attempt: Attempt, event: Event, reason: str, handlers: tuple[str, ...]
) -> DeadLetter:
    """Return one event as a dead letter for these handlers; none: for all that want it."""
    progress = Progress(pending=handlers, via=attempt.via).encode()
    return _letter(attempt.delivery, body_of(event), reason, progress)


def body_of(event: Event) -> bytes:
    """Return a body of the shape of a delivery's, with this event alone."""
    return b'{"events":[%b]}' % event.raw


def _letter(delivery: Delivery, body: bytes, reason: str, progress: str = "") -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
        progress=progress,
    )


def _progress_of(delivery: Delivery) -> Progress | None:
    """Return how far it came; None when that is damaged."""
    try:
        return Progress.decode(delivery.progress)
    except DecodeError:
        return None


def _decode(delivery: Delivery, source: Source) -> Sequence[Event | Undecodable | SyncError]:
    try:
        return decode_events(delivery.body, source=source)
    except DecodeError:
        return _decode_each(delivery, source)


def _decode_each(delivery: Delivery, source: Source) -> Sequence[Event | Undecodable | SyncError]:
    try:
        texts = split_events(delivery.body)
    except DecodeError as error:
        return [Undecodable(delivery.body, str(error))]
    return [_decode_one(text, delivery.received_at, source) for text in texts]


def _decode_one(
    text: msgspec.Raw, received_at: datetime, source: Source
) -> Event | Undecodable | SyncError:
    try:
        return read_event(text, received_at=received_at, source=source)
    except DecodeError as error:
        with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
            return SyncError(_sync_error.decode(text).message)
        return Undecodable(b'{"events":[%b]}' % bytes(text), str(error))


class _SyncErrorShape(msgspec.Struct):
    action: Literal["sync_error"]
    message: str = ""
    resource: None = None


_sync_error = msgspec.json.Decoder(_SyncErrorShape)
