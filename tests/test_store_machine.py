"""Any sequence of calls: each store answers as a simple model of it does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from asana_webhooks.errors import StoreError
from asana_webhooks.models import Claim, DeadLetter, Delivery, Route
from asana_webhooks.stores import (
    DUPLICATES_KNOWN_FOR,
    MAX_CANDIDATES,
    RETIRED_KNOWN_FOR,
    Store,
)
from asana_webhooks.stores.memory import MemoryStore
from asana_webhooks.stores.sqlite import SqliteStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAX_WAITING = 6

ids = st.sampled_from(["r1", "r2", "r3"])
secrets = st.sampled_from("abcdef")
seconds = st.sampled_from([1.0, 5.0, 30.0])
small = st.integers(0, 3)


@dataclass(eq=False)
class Waiting:
    """A delivery in the inbox, as the model has it."""

    number: int
    route: str
    due: float
    held: str | None = None
    attempts: int = 0
    done: int = 0
    crashes: int = 0


@dataclass
class Lease:
    """A claim as the model has it: what the worker has not settled yet, by the store's id."""

    fence: int
    ends: float
    open: dict[str, Waiting]


@dataclass
class Model:
    """The knowledge of a store, in lists and dictionaries."""

    now: float = 1000.0
    wall: datetime = NOON
    routes: dict[str, Route] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    owners: dict[str, tuple[str, float]] = field(default_factory=dict)
    seen: dict[int, datetime] = field(default_factory=dict)
    letters: list[tuple[int, str, int]] = field(default_factory=list)

    def step(self) -> None:
        """Move time on, by so little and so odd a span that no two times are ever equal."""
        self.now += 0.0137
        for id_ in [id_ for id_, expires in self.expires.items() if expires <= self.now]:
            if self.state(id_) == "reserved" or not self.claimable(id_):
                self.forget(id_)
        self.owners = {h: (url, end) for h, (url, end) in self.owners.items() if end > self.now}

    def forget(self, id_: str) -> Route:
        self.waiting = [w for w in self.waiting if w.route != id_ or w.held is None]
        del self.expires[id_]
        return self.routes.pop(id_)

    def state(self, id_: str) -> str | None:
        return self.routes[id_].state if id_ in self.routes else None

    def change(self, id_: str, **fields: Any) -> None:
        known = {name: getattr(self.routes[id_], name) for name in Route.__struct_fields__}
        self.routes[id_] = Route(**{**known, **fields})

    def lease(self, claim: Claim) -> Lease | None:
        lease = self.leases.get(claim.route)
        return lease if lease is not None and lease.fence == claim.fence else None

    def claimable(self, id_: str | None = None) -> list[Waiting]:
        return sorted(
            (w for w in self.waiting if id_ in (None, w.route) and w.held is None),
            key=lambda w: w.due,  # sorting is stable: the order of arrival decides between equals
        )

    def available_at(self, id_: str) -> float:
        if id_ in self.leases:
            return self.leases[id_].ends
        return min((w.due for w in self.claimable(id_)), default=float("inf"))

    def claim(self, limit: int) -> tuple[str, list[Waiting]] | None:
        for id_ in sorted(
            {w.route for w in self.waiting} | set(self.leases), key=self.available_at
        ):
            if self.available_at(id_) > self.now:
                return None
            if id_ in self.leases:  # it ran out; perhaps all was acked or put off
                for crashed in self.leases.pop(id_).open.values():
                    crashed.crashes += 1
            due = [w for w in self.claimable(id_) if w.due <= self.now]
            fresh = list(takewhile(lambda w: not w.crashes, due))[:limit]
            if due:
                return id_, fresh or due[:1]
        return None


class StoreMachine(RuleBasedStateMachine):
    """The calls of the contract, in any order and with arguments that often collide."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner()
        self.directory = TemporaryDirectory()
        self.store = self.run(self.make(Path(self.directory.name)).__aenter__())

    def make(self, directory: Path) -> Store:
        raise NotImplementedError

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.store.__aexit__(None, None, None))
        self.runner.close()
        self.directory.cleanup()

    @initialize()
    def begin_with_a_route(self) -> None:
        self.reserve("r1", 50.0, exclusive=False)
        self.add_candidate("r1", "a")

    # Time

    @rule(span=st.sampled_from([1.0, 4.0, 29.0, RETIRED_KNOWN_FOR.total_seconds()]))
    def let_time_go_on(self, span: float) -> None:
        self.model.now += span

    @rule(hours=st.sampled_from([1, 24, 48, 49]))
    def let_days_go_on(self, hours: int) -> None:
        self.model.wall += timedelta(hours=hours)

    # Ownership

    @rule(holder=st.sampled_from("ab"), url=st.sampled_from("xy"), ttl=seconds)
    def own(self, holder: str, url: str, ttl: float) -> None:
        self.model.step()
        others = [u for h, (u, _) in self.model.owners.items() if h != holder and u != url]
        expected = others[0] if others else None
        assert self.run(self.store.own(url, holder=holder, ttl=ttl)) == expected
        if expected is None:
            self.model.owners[holder] = url, self.model.now + ttl

    @rule(holder=st.sampled_from("ab"))
    def disown(self, holder: str) -> None:
        self.model.step()
        self.run(self.store.disown(holder))
        self.model.owners.pop(holder, None)

    # Routes

    @rule(id_=ids, ttl=st.sampled_from([3.0, 50.0]), exclusive=st.booleans())
    def reserve(self, id_: str, ttl: float, *, exclusive: bool) -> None:
        self.model.step()
        resource = "12" if id_ != "r3" else "13"
        route = Route(id=id_, target=f"https://h/{id_}", resource=resource, created_at=NOON)
        live = [r for r in self.model.routes.values() if r.state != "retired"]
        expected = id_ not in self.model.routes and not (
            exclusive and any(other.resource == resource for other in live)
        )
        assert self.run(self.store.reserve(route, ttl=ttl, exclusive=exclusive)) == expected
        if expected:
            self.model.routes[id_] = route
            self.model.expires[id_] = self.model.now + ttl

    @rule(id_=ids, secret=secrets)
    def add_candidate(self, id_: str, secret: str) -> None:
        self.model.step()
        route = self.model.routes.get(id_)
        expected = route is not None and secret in (*route.candidates, route.secret)
        if self.model.state(id_) == "reserved" and not expected:
            assert route is not None
            expected = len(route.candidates) < MAX_CANDIDATES
            if expected:
                self.model.change(id_, candidates=(*route.candidates, secret))
        assert self.run(self.store.add_candidate(id_, secret)) == expected

    @rule(id_=ids, secret=secrets)
    def confirm(self, id_: str, secret: str) -> None:
        self.model.step()
        route = self.model.routes.get(id_)
        expected = route is not None and secret in route.candidates
        assert self.run(self.store.confirm(id_, gid="77", secret=secret)) == expected
        if expected:
            now = self.model.now
            self.model.waiting = [
                replace(w, held=None, due=now) if w.route == id_ and w.held == secret else w
                for w in self.model.waiting
                if w.route != id_ or w.held in (None, secret)
            ]
            del self.model.expires[id_]
            self.model.change(id_, state="confirmed", gid="77", secret=secret, candidates=())

    @rule(id_=ids)
    def retire(self, id_: str) -> None:
        self.model.step()
        expected = self.model.state(id_) == "confirmed"
        assert self.run(self.store.retire(id_)) == expected
        if expected:
            self.model.change(id_, state="retired", secret=None)
            self.model.expires[id_] = self.model.now + RETIRED_KNOWN_FOR.total_seconds()

    @rule(id_=ids)
    def drop(self, id_: str) -> None:
        self.model.step()
        expected = self.model.forget(id_) if self.model.state(id_) == "reserved" else None
        assert self.run(self.store.drop(id_)) == expected

    # Inbox

    @rule(
        number=st.integers(0, 9),
        id_=ids,
        candidate=st.none() | secrets,
        reason=st.none() | st.just("odd"),
    )
    def put(self, number: int, id_: str, candidate: str | None, reason: str | None) -> None:
        model = self.model
        model.step()
        call = self.store.put(
            _delivery(number, id_, model.wall), candidate=candidate, reason=reason
        )
        route = model.routes.get(id_)
        known = number in model.seen and model.wall - model.seen[number] <= DUPLICATES_KNOWN_FOR
        held = route is not None and candidate in route.candidates
        stray = candidate and not held and (route is None or candidate != route.secret)
        if known or stray:
            assert not self.run(call)
        elif reason is None and not held and len(model.claimable()) >= MAX_WAITING:
            with pytest.raises(StoreError, match="full"):
                self.run(call)
        else:
            assert self.run(call)
            model.seen[number] = model.wall
            if reason is None:
                new = Waiting(number, id_, model.now, held=candidate if held else None)
                model.waiting.append(new)
            else:
                model.letters.append((number, id_, 0))

    @rule(number=st.integers(10, 10_000), id_=ids)
    def put_something_new(self, number: int, id_: str) -> None:
        self.put(number, id_, None, None)

    @rule(target=claims, limit=st.integers(1, 3), lease=seconds)
    def claim(self, limit: int, lease: float) -> Claim | MultipleResults[Claim]:
        self.model.step()
        expected = self.model.claim(limit)
        claim: Claim | None = self.run(self.store.claim(limit=limit, lease=lease))
        if expected is None or claim is None:
            assert claim is None
            assert expected is None
            return multiple()
        id_, due = expected
        assert claim.route == id_
        got = [(_number(d), d.attempts, d.done, d.crashes) for d in claim.deliveries]
        assert got == [(w.number, w.attempts, w.done, w.crashes) for w in due]
        assert claim.fence > self.model.fences.get(id_, 0)
        self.model.fences[id_] = claim.fence
        given = {d.id: w for d, w in zip(claim.deliveries, due, strict=True)}
        self.model.leases[id_] = Lease(claim.fence, self.model.now + lease, given)
        return claim

    @rule(claim=claims, seconds=seconds)
    def renew(self, claim: Claim, seconds: float) -> None:
        self.model.step()
        lease = self.model.lease(claim)
        assert self.run(self.store.renew(claim, lease=seconds)) == (lease is not None)
        if lease is not None:
            lease.ends = self.model.now + seconds

    @rule(claim=claims, which=small)
    def ack(self, claim: Claim, which: int) -> None:
        self.model.step()
        lease, handled = self._pick(claim, which)
        assert self.run(self.store.ack(claim, handled)) == (lease is not None)
        self._settle(lease, handled)

    @rule(claim=claims, which=small, delay=st.sampled_from([0.0, 1.0, 20.0]), done=small)
    def release(self, claim: Claim, which: int, delay: float, done: int) -> None:
        self.model.step()
        lease, picked = self._pick(claim, which)
        for delivery in picked:
            call = self.store.release(
                claim, delivery, delay=delay, attempts=delivery.attempts + 1, done=done
            )
            assert self.run(call) == (lease is not None)
        if lease is not None:
            for delivery in picked:
                waiting = lease.open.pop(delivery.id)
                waiting.attempts, waiting.done = delivery.attempts + 1, done
                waiting.crashes = min(waiting.crashes, 1)
                waiting.due = self.model.now + delay if delay else waiting.due

    @rule(claim=claims, which=small, count=st.integers(0, 2))
    def bury(self, claim: Claim, which: int, count: int) -> None:
        self.model.step()
        lease, picked = self._pick(claim, which)
        for delivery in picked:
            letters = [_letter(delivery, done) for done in range(count)]
            assert self.run(self.store.bury(claim, delivery, letters)) == (lease is not None)
            if lease is not None:
                number = _number(delivery)
                self.model.letters += [(number, claim.route, done) for done in range(count)]
        self._settle(lease, picked)

    @rule(claim=claims, which=small)
    def end_claim(self, claim: Claim, which: int) -> None:
        self.model.step()
        lease, handled = self._pick(claim, which)
        assert self.run(self.store.end_claim(claim, handled)) == (lease is not None)
        self._settle(lease, handled)
        if lease is not None:
            del self.model.leases[claim.route]

    def _pick(self, claim: Claim, which: int) -> tuple[Lease | None, list[Delivery]]:
        """Return one delivery of a claim, none if its worker settled it: that is done once."""
        lease = self.model.lease(claim)
        delivery = claim.deliveries[which % len(claim.deliveries)]
        return lease, [delivery] if lease is None or delivery.id in lease.open else []

    def _settle(self, lease: Lease | None, deliveries: list[Delivery]) -> None:
        if lease is not None:
            for delivery in deliveries:
                self.model.waiting.remove(lease.open.pop(delivery.id))

    @rule(which=small)
    def replay(self, which: int) -> None:
        self.model.step()
        letters = self.run(self.store.dead_letters())
        if letters:
            index = which % len(letters)
            assert self.run(self.store.replay([letters[index].id])) == 1
            number, route, done = self.model.letters.pop(index)
            self.model.waiting.append(Waiting(number, route, self.model.now, done=done))

    @invariant()
    def store_tells_what_the_model_knows(self) -> None:
        self.model.step()
        counts, routes, letters, *found = self.run(self._ask())
        assert counts.waiting == len(self.model.waiting)
        assert counts.dead_letters == len(self.model.letters)
        assert routes == [r for r in self.model.routes.values() if r.state != "retired"]
        assert found == [self.model.routes.get(id_) for id_ in ("r1", "r2", "r3")]
        assert [(_number(d), d.route, d.done) for d in letters] == self.model.letters

    async def _ask(self) -> list[Any]:
        return await asyncio.gather(
            self.store.counts(),
            self.store.list_routes(),
            self.store.dead_letters(),
            *(self.store.get_route(id_) for id_ in ("r1", "r2", "r3")),
        )


class MemoryMachine(StoreMachine):
    def make(self, directory: Path) -> Store:
        return MemoryStore(max_waiting=MAX_WAITING, clock=lambda: self.model.now)


class SqliteMachine(StoreMachine):
    def make(self, directory: Path) -> Store:
        path = directory / "store.db"
        return SqliteStore(path, max_waiting=MAX_WAITING, clock=lambda: self.model.now)

    @rule()
    def open_again(self) -> None:
        self.run(self.store.__aexit__(None, None, None))
        self.store = self.run(self.make(Path(self.directory.name)).__aenter__())


def _delivery(number: int, route: str, at: datetime) -> Delivery:
    digest = hashlib.sha256(str(number).encode()).digest()
    return Delivery(route=route, body=str(number).encode(), digest=digest, received_at=at)


def _number(stored: Delivery | DeadLetter) -> int:
    return int(stored.body)


def _letter(delivery: Delivery, done: int) -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=delivery.body,
        reason="given up",
        received_at=NOON,
        buried_at=NOON,
        done=done,
    )


@pytest.mark.slow
@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_store_answers_as_the_model_does(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
