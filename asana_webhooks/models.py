"""The values that cross the wire or the store.

Decoding is lenient: what Asana adds is kept or ignored, never refused. Times are aware and UTC,
gids are strings.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec
from msgspec.structs import force_setattr

from .errors import DecodeError

__all__ = [
    "BudgetState",
    "Change",
    "Claim",
    "Continuity",
    "Counts",
    "DeadLetter",
    "Delivery",
    "Event",
    "Gap",
    "GapReason",
    "Latency",
    "Notice",
    "NoticeKind",
    "Page",
    "Resource",
    "Route",
    "Source",
    "Webhook",
    "WebhookFilter",
]

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Time = Annotated[datetime, msgspec.Meta(tz=True)]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class Resource(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A compact reference to an object of Asana: of events gid and type, elsewhere a name too."""

    gid: str
    resource_type: str | None = None
    resource_subtype: str | None = None
    name: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The change of one field of a resource; ``action`` is that of the field, not of the resource.

    The values are decoded JSON as Asana sent it: where it says anything, a dict with ``gid`` and
    ``resource_type``, for an enum field with ``enum_value`` below.
    """

    field: str | None = None
    action: str | None = None
    new_value: Any = None
    added_value: Any = None
    removed_value: Any = None

    def __hash__(self) -> int:
        """Return the hash of what can be hashed: values may be dicts."""
        return hash((self.field, self.action))


class Source(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The webhook that something came from.

    ``webhook`` is its gid, empty while that is not known; ``resource`` is the gid of what it
    watches, and ``account`` the program's name for whose it is, empty without accounts. ``via`` is
    ``webhook`` for what Asana delivered, and ``stream`` for what was found in its events stream.
    ``received_at`` is when that was; it is None where nothing was received.
    """

    webhook: str
    resource: str
    account: str = ""
    via: Literal["webhook", "stream"] = "webhook"
    received_at: datetime | None = None


NO_SOURCE = Source(webhook="", resource="")
"""The source of an event that was made by hand or decoded alone."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One change of one resource.

    ``action`` is ``added``, ``changed``, ``removed``, ``deleted``, ``undeleted``, or one that is
    new at Asana. ``user`` is None for changes by Asana itself, ``parent`` is set for ``added`` and
    ``removed``, ``change`` for most of ``changed``. ``raw`` is the event's JSON as it was signed.
    ``source`` tells which webhook it came from; its gids are empty for an event that was made by
    hand or decoded alone. ``echo`` is whether the program itself has caused it, through
    ``request``. Neither is a part of ``==``: two webhooks that see one change see equal events.

    Source: https://developers.asana.com/reference/events
    """

    created_at: Time
    action: str
    resource: Resource
    user: Resource | None = None
    parent: Resource | None = None
    change: Change | None = None
    type: str | None = None
    # These are set after decoding, never by Asana.
    raw: bytes = msgspec.field(default=b"", name="(raw)")
    source: Source = msgspec.field(default=NO_SOURCE, name="(source)")
    echo: bool = msgspec.field(default=False, name="(echo)")

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same in all but its source, and whose echo it is."""
        if not isinstance(other, Event):
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        """Return the hash of what can be hashed: the values of a change may be dicts."""
        return hash((self.created_at, self.action, self.resource))

    @property
    def key(self) -> str:
        """A digest, 32 hex digits, of what identifies the change: equal for each repeat of it.

        Asana gives events no id. Two webhooks, and the events stream, tell one change with one key.
        So it is made of what all of them say: ``created_at``, ``action``, the gid and type of
        ``resource`` and ``parent``, the gid of ``user``, and of ``change`` the field, the action,
        and gid and type of its values. What else a value holds differs between webhook and stream,
        and a value that is no object of Asana is none: neither changes the key.
        """
        return event_digest(self).hex()

    def __repr__(self) -> str:
        """Return the fields that are set, the JSON text left out."""
        return _represent(self, hidden=self._hidden())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields that are set, the JSON text left out."""
        return _shown(self, hidden=self._hidden())

    def _hidden(self) -> set[str]:
        unset = {"source": self.source is NO_SOURCE, "echo": not self.echo}
        return {"raw", *(name for name, is_unset in unset.items() if is_unset)}

    def json(self) -> dict[str, Any]:
        """Return the whole event, fields that this class does not know included; decoded anew.

        Raises DecodeError when one of those holds a number too large for Python's JSON.
        """
        try:
            fields: dict[str, Any] = msgspec.json.decode(self.raw)
        except _UNREADABLE as error:
            msg = f"not readable as a whole: {_reason(error)}"
            raise DecodeError(msg) from None
        return fields


class WebhookFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One filter of a webhook; an event that passes any filter of the list is delivered.

    ``fields`` goes with the action ``changed`` only, and not on workspaces, teams, portfolios and
    goals, which need filters and accept only ``project``, ``team_membership`` and
    ``workspace_membership``.

    Source: https://developers.asana.com/docs/webhooks-guide#filters
    """

    resource_type: str | None = None
    resource_subtype: str | None = None
    action: str | None = None
    fields: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Make a tuple of any sequence of fields.

        Raises ValueError for one name alone, TypeError for what is neither names nor None.
        """
        for name in ("resource_type", "resource_subtype", "action"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                msg = f"a filter's {name} is a text, or None, not {type(value).__name__}"
                raise TypeError(msg)
        if self.fields is None:
            return
        msg = "a filter's fields are a list of names, also when there is one"
        if isinstance(self.fields, str):
            raise ValueError(msg)
        fields = tuple(self.fields) if isinstance(self.fields, Iterable) else (self.fields,)
        if not all(isinstance(name, str) for name in fields):
            raise TypeError(msg)
        force_setattr(self, "fields", fields)


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Asana's record of a webhook; what was not asked for with ``opt_fields`` is None.

    ``secret`` is set on the webhook that a create call returned, and by the client on webhooks
    whose secret its store holds; it is never part of Asana's other answers. ``repr`` shows neither
    it nor the target, which ends in a route.
    ``failure_deletion_timestamp`` is when Asana deletes the webhook unless a delivery succeeds.

    Source: https://developers.asana.com/reference/webhooks
    """

    gid: str
    resource_type: str = "webhook"
    resource: Resource | None = None
    target: str | None = None
    active: bool | None = None
    created_at: Time | None = None
    last_success_at: Time | None = None
    last_failure_at: Time | None = None
    last_failure_content: str | None = None
    delivery_retry_count: int | None = None
    next_attempt_after: Time | None = None
    failure_deletion_timestamp: Time | None = None
    filters: tuple[WebhookFilter, ...] | None = None
    is_workspace_webhook: bool | None = None
    secret: str | None = None

    def __repr__(self) -> str:
        """Return the fields that are set, without address and secret."""
        return _represent(self, hidden={"target", "secret"})

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields that are set, without address and secret."""
        return _shown(self, hidden={"target", "secret"})


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; ``offset`` asks for the next one, None on the last. It expires soon."""

    data: tuple[T, ...]
    offset: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook as the store holds it: its address here, its state and its secrets.

    ``id`` is the unguessable last segment of the target. A route is ``reserved`` before the create
    call, ``confirmed`` with ``gid`` and ``secret`` when Asana's answer fits the handshake, and
    ``retired`` when the webhook is gone. ``candidates`` are the secrets that handshakes left while
    it was reserved, oldest first.

    ``account`` is the program's name for whose webhook it is, empty without accounts; ``user`` is
    the gid of the token's user who made it, None while that is not known. A confirmed route that is
    ``leaving`` still receives; its webhook is to be deleted at Asana. A retired one was ``deleted``
    on purpose, or was ``lost``.
    """

    id: str
    target: str
    resource: str
    account: str = ""
    user: str | None = None
    filters: tuple[WebhookFilter, ...] | None = None
    state: Literal["reserved", "confirmed", "retired"] = "reserved"
    gid: str | None = None
    secret: str | None = None
    candidates: tuple[str, ...] = ()
    created_at: Time = msgspec.field(default_factory=lambda: datetime.now(UTC))
    confirmed_at: Time | None = None
    heartbeat_at: Time | None = None
    leaving: bool = False
    retired_as: Literal["deleted", "lost"] | None = None

    def __repr__(self) -> str:
        """Return the fields that are set, without address and secrets."""
        return _represent(self, hidden={"id", "target", "secret", "candidates"})

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields that are set, without address and secrets."""
        return _shown(self, hidden={"id", "target", "secret", "candidates"})


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One signed post with events, or one event of it that is tried again, as the inbox keeps it.

    ``route`` is the id of its route, ``body`` the bytes that were signed, ``digest`` the 32 bytes
    of the signature, which make a repeat recognisable; of an event alone ``body`` has the shape of
    a delivery's, and ``digest`` is 32 times 0, as it is after a replay. The store gives it an
    ``id``; ``attempts`` counts the failed tries. ``progress`` is the text of a ``Progress``, or
    empty. ``trace`` is the ``traceparent`` (W3C Trace Context, 55 characters) of the span that
    received it, or empty. ``crashes`` counts the claims that ended without a word while they held
    it: their process died, slept through its lease, or was blocked for longer than it.
    """

    route: str
    body: bytes
    digest: bytes
    received_at: datetime
    id: str = ""
    attempts: int = 0
    progress: str = ""
    trace: str = ""
    crashes: int = 0

    def __repr__(self) -> str:
        """Return what tells deliveries apart, without body and signature."""
        return (
            f"Delivery(id={self.id!r}, {len(self.body)} bytes, received_at={self.received_at},"
            f" attempts={self.attempts}, progress={self.progress!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what tells deliveries apart, without body and signature."""
        return _shown(self, hidden={"route", "body", "digest"})


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest due deliveries of one route, leased to one worker.

    ``fence`` is larger with every claim of the route: the store takes no word about a delivery
    from a worker whose fence is not the newest. ``previous`` is the fence of the route's last claim
    before this one, 0 when there was none or it is not known: who had that one knows all that was
    handled of the route. ``has_writes`` is whether the store has writes, or had some lately.
    """

    route: str
    fence: int
    deliveries: tuple[Delivery, ...]
    previous: int = 0
    has_writes: bool = False

    def __repr__(self) -> str:
        """Return the deliveries; the route's id stays out of logs."""
        return f"Claim(fence={self.fence}, deliveries={self.deliveries!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fence and the deliveries; the route's id stays out of logs."""
        return _shown(self, hidden={"route"})


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The progress of a delivery; events are counted from 0, handlers go by their names.

    The first ``upto`` events are done, and those in ``done``. Of those in ``partly`` these handlers
    are done. ``pending`` are the only handlers that an event alone, which is tried again, is for;
    empty: all that want it. ``via`` is where it came from. What was taken from the stream and is
    handed over for the first time has ``fresh``: whether the stream was seen to agree with what is
    delivered (``exact``) or not (``near``).
    """

    upto: Natural = 0
    done: tuple[Natural, ...] = ()
    partly: dict[Natural, tuple[str, ...]] = {}
    pending: tuple[str, ...] = ()
    via: Literal["webhook", "stream"] = "webhook"
    fresh: Literal["", "exact", "near"] = ""

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return what a text of ``encode`` says. Raises DecodeError when it is damaged."""
        if not text:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls)
        except _UNREADABLE as error:
            msg = f"not a delivery's progress: {_reason(error)}"
            raise DecodeError(msg) from None

    def encode(self) -> str:
        """Return it as a text, which is empty at the beginning."""
        text = msgspec.json.encode(self).decode()
        return "" if text == "{}" else text


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery to be claimed again ``delay`` seconds later; with 0 it keeps its place.

    Without an ``id`` it is a new one, which takes its event out of the delivery that it came in.
    """

    delivery: Delivery
    delay: float


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """The result of work on a claim, which a store keeps as a whole or not at all.

    ``removed`` are the ids of deliveries that are done, or became dead letters. ``kept`` are
    deliveries that stay claimed, as they are now: of each ``attempts`` and ``progress`` are kept.
    ``events`` are the remembered events, packed, that came to their end in ``scope``.
    """

    removed: tuple[str, ...] = ()
    kept: tuple[Delivery, ...] = ()
    retries: tuple[Retry, ...] = ()
    letters: tuple[DeadLetter, ...] = ()
    scope: str = ""
    events: bytes = b""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One event, or a delivery that could not be read, that was given up; it waits for a person.

    ``body`` is of the shape of a delivery's. ``progress`` is the text of a ``Progress``, which a
    replay goes on from; it names the ``handlers`` that failed. ``reason`` is one line. The store
    gives it an ``id``.
    """

    route: str
    body: bytes
    reason: str
    received_at: datetime
    buried_at: datetime
    progress: str = ""
    id: str = ""

    @property
    def handlers(self) -> tuple[str, ...]:
        """The names of the handlers that failed; empty when it was given up for all of them."""
        try:
            return Progress.decode(self.progress).pending
        except DecodeError:
            return ()

    def __repr__(self) -> str:
        """Return what tells dead letters apart, without address and body."""
        return _represent(self, hidden={"route", "body"})

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what tells dead letters apart, without address and body."""
        return _shown(self, hidden={"route", "body"})


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A call of this program that changes something at Asana, and so causes events.

    ``account`` is whose call it is. ``resources`` are the gids that its events may name. ``text``
    says what the call changes, when it was made and what came of it; a store does not read it.
    """

    id: str
    account: str = ""
    resources: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        """Return what tells writes apart; the text stays out of logs."""
        return _represent(self, hidden={"text"})

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what tells writes apart; the text stays out of logs."""
        return _shown(self, hidden={"text"})


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A text of a scope; ``version`` is the store's, 0 before it has any."""

    scope: str
    version: int = 0
    text: str

    def __repr__(self) -> str:
        """Return scope and version; the text stays out of logs."""
        return _represent(self, hidden={"text"})

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return scope and version; the text stays out of logs."""
        return _shown(self, hidden={"text"})


GapReason: TypeAlias = Literal["expired", "refused", "disagreement", "sync_error", "unreadable"]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which events may have been missed, and nothing tells which.

    It is from ``start`` to ``end``, None while it goes on. The ``reason``: ``expired``, Asana no
    longer had what the stream was to be read from; ``refused``, Asana no longer gives the stream;
    ``disagreement``, the stream does not tell what the webhook delivers; ``sync_error``, Asana said
    that it could not keep up, of a resource without a stream; ``unreadable``, an event of the
    stream is of no shape that can be read. ``detail`` is one line for a person. It is open until
    ``client.close_gap(id)``.
    """

    id: str
    source: Source
    start: datetime
    end: datetime | None = None
    reason: GapReason
    detail: str = ""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """The seconds from a change to the receipt of its delivery, within a fifth of each.

    ``count`` deliveries were measured; the latest count most.
    """

    count: int
    median: float
    p99: float


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of a token at a moment.

    ``reads`` and ``writes`` are under way; at most ``most_reads`` and ``most_writes`` may be in
    this process. ``waiting`` have no slot yet. ``held_for`` is for how many seconds Asana wants no
    call, 0.0 for none. ``account`` is "" without accounts.
    """

    account: str = ""
    reads: int
    writes: int
    most_reads: int
    most_writes: int
    waiting: int
    held_for: float


class Continuity(msgspec.Struct, frozen=True, kw_only=True):
    """The proof that one webhook's events are all here, and what it lacks.

    ``evidence`` is ``stream`` where Asana's events stream is compared with what was delivered.
    Else only ``heartbeats`` tell that the webhook lives: Asana has no stream of the resource, or it
    is not read. All that passed the filters until ``proven_until`` is received, but for the open
    ``gaps``; None: nothing is proven. Counted since the webhook was made: events ``seen`` in the
    stream; those ``recovered`` from it; those that Asana ``dropped``, which are the recovered ones
    that were never delivered. ``latency`` is None before a delivery.
    """

    source: Source
    evidence: Literal["stream", "heartbeats"]
    proven_until: datetime | None = None
    gaps: tuple[Gap, ...] = ()
    seen: int = 0
    recovered: int = 0
    dropped: int = 0
    latency: Latency | None = None

    @property
    def dropped_share(self) -> float:
        """The part of the stream's events that Asana dropped, 0.0 to 1.0."""
        return self.dropped / self.seen if self.seen else 0.0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The number of deliveries and dead letters in an inbox, which processes may share.

    ``waiting`` deliveries are due, leased, released or held. ``oldest_at`` is when the oldest was
    received of those that are the first in line of their webhooks; None when none is in line.
    """

    waiting: int
    dead_letters: int
    oldest_at: datetime | None = None


NoticeKind: TypeAlias = Literal[
    "established",
    "mangled",
    "failing",
    "silent",
    "lost",
    "restored",
    "gap",
    "unauthorized",
    "limited",
]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A word about a webhook, or about an account.

    ``detail`` is one line for a person. A gap is from ``start`` to ``end``, None where that is not
    known; other kinds have neither. ``docs/operations.md`` says what to do for each kind.
    """

    kind: NoticeKind
    source: Source
    at: datetime
    detail: str
    start: datetime | None = None
    end: datetime | None = None


def _compared(event: Event) -> tuple[object, ...]:
    return tuple(getattr(event, name) for name in _COMPARED)


_COMPARED = tuple(name for name in Event.__struct_fields__ if name not in ("source", "echo"))


def event_digest(event: Event) -> bytes:
    """Return the 16 bytes that are an event's key."""
    return digest_at(event, event.created_at.timestamp())


def digest_at(event: Event, created_at: float) -> bytes:
    """Return the key of an event whose time is this one, in seconds since 1970."""
    resource, user, parent, change = event.resource, event.user, event.parent, event.change
    identity = (
        created_at,
        event.action,
        (resource.gid, resource.resource_type),
        None if user is None else user.gid,
        None if parent is None else (parent.gid, parent.resource_type),
        None
        if change is None
        else (
            change.field,
            change.action,
            None if change.new_value is None else _gid_and_type(change.new_value),
            None if change.added_value is None else _gid_and_type(change.added_value),
            None if change.removed_value is None else _gid_and_type(change.removed_value),
        ),
    )
    digest = _new_key()
    digest.update(_encode(identity))
    return digest.digest()


def _gid_and_type(value: object) -> tuple[str, str | None] | None:
    """Return what names an object of Asana in a value that was decoded; None when it is none."""
    if not isinstance(value, dict) or not isinstance(gid := value.get("gid"), str):
        return None
    kind = value.get("resource_type")
    return gid, kind if isinstance(kind, str) else None


def check_gid(name: str, gid: str) -> str:
    """Return the gid. Raises ValueError, which names the parameter, when it is none."""
    if isinstance(gid, str) and _GID.fullmatch(gid):
        return gid
    msg = f"{name} must be a gid: a text of digits, as in '1204619'"
    raise ValueError(msg)


_GID = re.compile(r"[0-9]+")


def split_events(body: bytes) -> list[msgspec.Raw]:
    """Return the JSON text of each event in a delivery's body; a heartbeat has none.

    Raises DecodeError, and nothing else, when the body is not UTF-8, not JSON, or not an object
    with a list of events.
    """
    try:
        if not body.isascii():
            body.decode()
        return _envelope.decode(body).events
    except _UNREADABLE as error:
        msg = f"not a delivery: {_reason(error)}"
        raise DecodeError(msg) from None


def decode_event(text: bytes | msgspec.Raw, *, source: Source = NO_SOURCE) -> Event:
    """Return the event from this source that this JSON text describes.

    Raises DecodeError, and nothing else, when a field that this class names has another shape.
    """
    raw = bytes(text)
    try:
        event = _event.decode(raw)
    except _UNREADABLE as error:
        msg = f"not an event: {_reason(error)}"
        raise DecodeError(msg) from None
    return _as_signed(event, raw, source)


def decode_events(body: bytes, *, source: Source = NO_SOURCE) -> list[Event]:
    """Return the events from this source in a delivery's body.

    Raises DecodeError, and nothing else, for what is no delivery, and for an event of which a
    field has another shape.
    """
    texts = split_events(body)
    try:
        events = _events.decode(body).events
    except _UNREADABLE as error:
        msg = f"not an event: {_reason(error)}"
        raise DecodeError(msg) from None
    for event, text in zip(events, texts, strict=True):
        _as_signed(event, bytes(text), source)
    return events


def read_event(
    text: bytes | msgspec.Raw, *, received_at: datetime, source: Source = NO_SOURCE
) -> Event:
    """Return the event that this JSON text describes, without what has another shape than ours.

    Such a field, or a part of it, is None; ``created_at`` is when the event was received. Raises
    DecodeError, and nothing else, without a resource's gid or an action, or when it is no JSON.
    """
    try:
        return decode_event(text, source=source)
    except DecodeError:
        event = _decode_parts(Event, text, created_at=received_at)
        if event is None:
            raise
        return _as_signed(event, bytes(text), source)


def _as_signed(event: Event, raw: bytes, source: Source) -> Event:
    """Return the event with its JSON text, its source, and its time in UTC."""
    force_setattr(event, "raw", raw)
    force_setattr(event, "source", source)
    if event.echo:  # a name of ours that somebody has sent
        force_setattr(event, "echo", False)  # noqa: FBT003 - the value of a field
    if event.created_at.tzinfo is not UTC:
        with contextlib.suppress(OverflowError):  # on the first and the last day of all
            force_setattr(event, "created_at", event.created_at.astimezone(UTC))
    return event


def is_older(text: msgspec.Raw, than: datetime) -> bool:
    """Return whether this JSON text says that it was created before a time; raises nothing."""
    try:
        return _dated.decode(text).created_at < than
    except _UNREADABLE:
        return False


def _decode_parts(kind: type[S], text: bytes | msgspec.Raw, **usual: Any) -> S | None:
    """Return a struct of this kind with each part that can be decoded alone.

    ``usual`` are values for parts that cannot. Returns None when a part is needed and has no
    value, or when the text is no object.
    """
    parts = dict(usual)
    try:
        texts = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except _UNREADABLE:
        return None
    for field in msgspec.structs.fields(kind):
        part = texts.get(field.encode_name)
        if part is not None and field.name in _STRUCTS:
            parts[field.name] = _decode_parts(_STRUCTS[field.name], part)
        elif part is not None:
            with contextlib.suppress(*_UNREADABLE):
                parts[field.name] = msgspec.json.decode(part, type=field.type)
    needed = (field.name for field in msgspec.structs.fields(kind) if field.required)
    return kind(**parts) if all(parts.get(name) is not None for name in needed) else None


_STRUCTS: dict[str, type[Resource | Change]] = {
    "resource": Resource,
    "user": Resource,
    "parent": Resource,
    "change": Change,
}

# Before msgspec 0.21 its errors are no ValueErrors.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Envelope(msgspec.Struct, gc=False):
    events: list[msgspec.Raw]


class _Events(msgspec.Struct, gc=False):
    events: list[Event]


class _Dated(msgspec.Struct, gc=False):
    created_at: Time


_encode = msgspec.json.Encoder().encode
_new_key = blake2b(digest_size=16).copy  # a copy is quicker than another one
_envelope = msgspec.json.Decoder(_Envelope)
_events = msgspec.json.Decoder(_Events)
_event = msgspec.json.Decoder(Event)
_dated = msgspec.json.Decoder(_Dated)


def _reason(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)


def _shown(struct: msgspec.Struct, hidden: set[str]) -> list[tuple[str, Any]]:
    fields = ((name, getattr(struct, name)) for name in struct.__struct_fields__)
    return [(name, value) for name, value in fields if name not in hidden and value is not None]


def _represent(struct: msgspec.Struct, hidden: set[str]) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in _shown(struct, hidden))
    return f"{type(struct).__name__}({fields})"
