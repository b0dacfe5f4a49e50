"""Any sequence of calls: each store answers as a simple model of it does."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import cycle, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
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
from asana_webhooks.models import (
    Claim,
    DeadLetter,
    Delivery,
    Retry,
    Route,
    Settlement,
    State,
    Write,
)
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

ROUTES = ("r1", "r2", "r3")

ids = st.sampled_from(ROUTES)
secrets = st.sampled_from("abcdef")
seconds = st.sampled_from([1.0, 5.0, 30.0])
small = st.integers(0, 3)
scopes = st.sampled_from(["/12", "acme/12"])
accounts = st.sampled_from(["", "", "acme"])
keys = st.sampled_from([bytes(16), bytes(range(16))])
fates = st.sampled_from(["left", "removed", "kept", "tried again", "put off", "buried"])


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    return Outcome(
        fates=draw(st.lists(fates, min_size=1, max_size=4)),
        progress=draw(st.sampled_from(["", "p1", "p2"])),
        attempts=draw(small),
        delay=draw(st.sampled_from([1.0, 20.0])),
        alone=draw(st.lists(st.sampled_from([0.0, 1.0, 20.0]), max_size=2)),
        scope=draw(scopes),
        events=draw(st.sampled_from([b"", b"\0one", b"two"])),
    )


@dataclass
class Outcome:
    """The result of some work: what becomes of the deliveries of a claim, in turn.

    ``alone`` are the delays of the events that are taken out of their deliveries.
    """

    fates: list[str]
    progress: str
    attempts: int
    delay: float
    alone: list[float]
    scope: str
    events: bytes


@dataclass(eq=False)
class Waiting:
    """A delivery in the inbox, as the model has it."""

    number: int
    route: str
    due: float
    held: str | None = None
    attempts: int = 0
    progress: str = ""
    crashes: int = 0


@dataclass
class Lease:
    """A claim as the model has it: all that it was given, and of that what it still holds."""

    fence: int
    ends: float
    given: dict[str, Delivery] = field(default_factory=dict)
    held: dict[str, Waiting] = field(default_factory=dict)

    def give(self, deliveries: Iterable[Delivery], waiting: Iterable[Waiting]) -> None:
        for delivery, held in zip(deliveries, waiting, strict=True):
            self.given[delivery.id], self.held[delivery.id] = delivery, held


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
    letters: list[tuple[int, str, str]] = field(default_factory=list)
    remembered: list[tuple[float, str, bytes]] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    holds: dict[tuple[str, str], float] = field(default_factory=dict)
    writes: dict[str, tuple[float, Write]] = field(default_factory=dict)
    taken: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def step(self) -> None:
        """Move time on, by so little and so odd a span that no two times are ever equal."""
        self.go_on(0.0137)
        for id_ in [id_ for id_, expires in self.expires.items() if expires <= self.now]:
            has_letters = any(route == id_ for _, route, _ in self.letters)
            if self.state(id_) == "reserved" or not (self.claimable(id_) or has_letters):
                self.forget(id_)
        known_from = self.now - DUPLICATES_KNOWN_FOR.total_seconds()
        self.writes = {id_: each for id_, each in self.writes.items() if each[0] >= known_from}
        self.taken = {part: key for part, key in self.taken.items() if part[0] in self.writes}
        self.holds = {held: end for held, end in self.holds.items() if end > self.now}
        self.remembered = [entry for entry in self.remembered if entry[0] >= known_from]
        self.owners = {h: (url, end) for h, (url, end) in self.owners.items() if end > self.now}

    def go_on(self, span: float) -> None:
        self.now += span
        self.wall += timedelta(seconds=span)

    def forget(self, id_: str) -> Route:
        self.waiting = [w for w in self.waiting if w.route != id_ or w.held is None]
        del self.expires[id_]
        return self.routes.pop(id_)

    def state(self, id_: str) -> str | None:
        return self.routes[id_].state if id_ in self.routes else None

    def change(self, id_: str, **fields: Any) -> None:
        self.routes[id_] = msgspec.structs.replace(self.routes[id_], **fields)

    def leave(self, id_: str) -> bool:
        if self.state(id_) == "confirmed":
            self.change(id_, leaving=True)
        return self.state(id_) == "confirmed"

    def account(self, id_: str) -> str:
        return self.routes[id_].account if id_ in self.routes else ""

    def forget_account(self, account: str) -> bool:
        routes = [route for route in self.routes.values() if route.account == account]
        if any(route.state != "retired" or self.claimable(route.id) for route in routes):
            return False
        for route in routes:
            self.forget(route.id)
            self.letters = [each for each in self.letters if each[1] != route.id]
        scope = f"{account}/12"
        self.states.pop(scope, None)
        self.remembered = [each for each in self.remembered if each[1] != scope]
        self.writes = {id_: each for id_, each in self.writes.items() if each[1].account != account}
        return True

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

    def claim(self, limit: int, skipped: str | None) -> tuple[str, list[Waiting]] | None:
        for id_ in sorted(
            {w.route for w in self.waiting} | set(self.leases), key=self.available_at
        ):
            if self.available_at(id_) > self.now:
                return None
            if self.account(id_) == skipped:
                continue
            if id_ in self.leases:  # it ran out; perhaps all was removed or put off
                for crashed in self.leases.pop(id_).held.values():
                    crashed.crashes += 1
            due = [w for w in self.claimable(id_) if w.due <= self.now]
            fresh = list(takewhile(lambda w: not w.crashes, due))[:limit]
            if due:
                return id_, fresh or due[:1]
        return None

    def claim_more(self, claim: Claim, limit: int) -> list[Waiting]:
        held = self.leases[claim.route].held.values()
        due = [w for w in self.claimable(claim.route) if w.due <= self.now and w not in held]
        return list(takewhile(lambda w: not w.crashes, due))[:limit]

    def version(self, scope: str) -> int:
        return self.states[scope].version if scope in self.states else 0

    def settle(self, lease: Lease, settlement: Settlement, route: str) -> None:
        for id_ in settlement.removed:
            if id_ in lease.held:
                self.waiting.remove(lease.held.pop(id_))
        for kept in settlement.kept:
            if kept.id in lease.held:
                _keep(lease.held[kept.id], kept)
        for retry in settlement.retries:
            self._try_again(lease, retry, route)
        self.letters += [(_number(each), each.route, each.progress) for each in settlement.letters]
        if settlement.events:
            self.remembered.append((self.now, settlement.scope, settlement.events))

    def _try_again(self, lease: Lease, retry: Retry, route: str) -> None:
        word = retry.delivery
        if word.id in lease.held:
            waiting = lease.held.pop(word.id)
            _keep(waiting, word)
            waiting.due = self.now + retry.delay if retry.delay else waiting.due
        elif not word.id:
            new = Waiting(_number(word), route, self.now + retry.delay)
            _keep(new, word)
            self.waiting.append(new)


class StoreMachine(RuleBasedStateMachine):
    """The calls of the contract, in any order and with arguments that often collide."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner()
        self.directory = TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(time, "time_ns", lambda: round(self.model.now * 1_000_000) * 1000)
        self.store = self.run(self.make(Path(self.directory.name)).__aenter__())

    def make(self, directory: Path) -> Store:
        raise NotImplementedError

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.store.__aexit__(None, None, None))
        self.runner.close()
        self.patch.undo()
        self.directory.cleanup()

    @initialize()
    def begin_with_a_route(self) -> None:
        self.reserve("r1", 50.0, "", exclusive=False)
        self.add_candidate("r1", "a")

    # Time

    @rule(span=st.sampled_from([1.0, 4.0, 29.0, RETIRED_KNOWN_FOR.total_seconds()]))
    def let_time_go_on(self, span: float) -> None:
        self.model.go_on(span)

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
        self.model.holds = {held: e for held, e in self.model.holds.items() if held[1] != holder}

    @rule(
        name=st.sampled_from("xy"),
        holder=st.sampled_from("abc"),
        ttl=seconds,
        limit=st.none() | st.integers(1, 2),
    )
    def hold(self, name: str, holder: str, ttl: float, limit: int | None) -> None:
        self.model.step()
        holds = self.model.holds
        end = holds.pop((name, holder), self.model.now)
        others = [held for held in holds if held[0] == name]
        expected = 0 if limit is not None and len(others) >= limit else len(others) + 1
        call = self.store.hold(name, holder=holder, ttl=ttl, limit=limit)
        assert self.run(call) == expected
        if expected:
            holds[name, holder] = max(end, self.model.now + ttl)

    # Routes

    @rule(
        id_=ids,
        ttl=st.sampled_from([3.0, 50.0]),
        account=accounts,
        exclusive=st.booleans(),
    )
    def reserve(self, id_: str, ttl: float, account: str, *, exclusive: bool) -> None:
        self.model.step()
        resource = "12" if id_ != "r3" else "13"
        route = Route(
            id=id_,
            target=f"https://h/{id_}",
            resource=resource,
            account=account,
            created_at=NOON,
        )
        served = [
            (r.account, r.resource)
            for r in self.model.routes.values()
            if r.state != "retired" and not r.leaving
        ]
        expected = id_ not in self.model.routes and not (
            exclusive and (account, resource) in served
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

    @rule(id_=ids, secret=secrets, others=st.lists(ids, max_size=2))
    def confirm(self, id_: str, secret: str, others: list[str]) -> None:
        self.model.step()
        route = self.model.routes.get(id_)
        expected = route is not None and secret in route.candidates
        leaving = [other for other in others if other != id_]
        call = self.store.confirm(id_, gid="77", secret=secret, leaving=leaving)
        assert self.run(call) == expected
        if expected:
            for other in leaving:
                self.model.leave(other)
            now = self.model.now
            self.model.waiting = [
                replace(w, held=None, due=now) if w.route == id_ and w.held == secret else w
                for w in self.model.waiting
                if w.route != id_ or w.held in (None, secret)
            ]
            del self.model.expires[id_]
            self.model.change(id_, state="confirmed", gid="77", secret=secret, candidates=())

    @rule(id_=ids)
    def leave(self, id_: str) -> None:
        self.model.step()
        assert self.run(self.store.leave(id_)) == self.model.leave(id_)

    @rule(id_=ids, user=st.sampled_from(["1", "2"]))
    def set_user(self, id_: str, user: str) -> None:
        self.model.step()
        self.run(self.store.set_user(id_, user))
        if id_ in self.model.routes:
            self.model.change(id_, user=user)

    @rule(id_=ids, lost=st.booleans())
    def retire(self, id_: str, *, lost: bool) -> None:
        self.model.step()
        expected = self.model.state(id_) == "confirmed"
        assert self.run(self.store.retire(id_, lost=lost)) == expected
        if expected:
            retired_as = "lost" if lost else "deleted"
            self.model.change(id_, state="retired", secret=None, retired_as=retired_as)
            self.model.expires[id_] = self.model.now + RETIRED_KNOWN_FOR.total_seconds()

    @rule(id_=ids)
    def drop(self, id_: str) -> None:
        self.model.step()
        expected = self.model.forget(id_) if self.model.state(id_) == "reserved" else None
        assert self.run(self.store.drop(id_)) == expected

    # Inbox

    async def _put(self, delivery: Delivery, candidate: str | None, reason: str | None) -> bool:
        is_new: bool = await self.store.put(delivery, candidate=candidate, reason=reason)
        return is_new

    @rule(
        number=st.integers(0, 9),
        id_=ids,
        candidate=st.none() | secrets,
        reason=st.none() | st.just("odd"),
    )
    def put(self, number: int, id_: str, candidate: str | None, reason: str | None) -> None:
        model = self.model
        model.step()
        call = self._put(_delivery(number, id_, model.wall), candidate, reason)
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
                model.letters.append((number, id_, ""))

    @rule(number=st.integers(10, 10_000), id_=ids)
    def put_something_new(self, number: int, id_: str) -> None:
        self.put(number, id_, None, None)

    @rule(
        target=claims,
        limit=st.integers(1, 3),
        lease=seconds,
        skipped=st.sampled_from([None, None, "", "acme"]),
    )
    def claim(
        self, limit: int, lease: float, skipped: str | None
    ) -> Claim | MultipleResults[Claim]:
        self.model.step()
        expected = self.model.claim(limit, skipped)
        accounts = () if skipped is None else {skipped}
        call = self.store.claim(limit=limit, lease=lease, skip_accounts=accounts)
        claim: Claim | None = self.run(call)
        if expected is None or claim is None:
            assert claim is None
            assert expected is None
            return multiple()
        id_, due = expected
        assert claim.route == id_
        assert _told(claim.deliveries) == _told(due)
        before = self.model.fences.get(id_, 0)
        assert claim.fence > before
        assert claim.previous in (0, before)
        assert claim.has_writes or not self.model.writes
        self.model.fences[id_] = claim.fence
        self.model.leases[id_] = Lease(claim.fence, self.model.now + lease)
        self.model.leases[id_].give(claim.deliveries, due)
        return claim

    @rule(claim=claims, limit=st.integers(1, 3))
    def claim_more(self, claim: Claim, limit: int) -> None:
        self.model.step()
        lease = self.model.lease(claim)
        more = self.run(self.store.claim_more(claim, limit=limit))
        if lease is None:
            assert more is None
            return
        due = self.model.claim_more(claim, limit)
        assert _told(more.deliveries) == _told(due)
        assert more.fence == claim.fence
        assert more.has_writes or not self.model.writes
        lease.give(more.deliveries, due)

    @rule(claim=claims, seconds=seconds)
    def renew(self, claim: Claim, seconds: float) -> None:
        self.model.step()
        lease = self.model.lease(claim)
        assert self.run(self.store.renew(claim, lease=seconds)) == (lease is not None)
        if lease is not None:
            lease.ends = self.model.now + seconds

    @rule(claim=claims, outcome=outcomes())
    def settle(self, claim: Claim, outcome: Outcome) -> None:
        self.model.step()
        lease, settlement = self._settlement(claim, outcome)
        letters = self.run(self.store.settle(claim, settlement))
        self._check_letters(letters, lease, settlement)
        if lease is not None:
            self.model.settle(lease, settlement, claim.route)

    @rule(claim=claims, outcome=st.none() | outcomes())
    def end_claim(self, claim: Claim, outcome: Outcome | None) -> None:
        self.model.step()
        lease, settlement = self.model.lease(claim), None
        if outcome is not None:
            lease, settlement = self._settlement(claim, outcome)
        letters = self.run(self.store.end_claim(claim, settlement))
        self._check_letters(letters, lease, settlement or Settlement())
        if lease is not None:
            self.model.settle(lease, settlement or Settlement(), claim.route)
            del self.model.leases[claim.route]

    def _check_letters(
        self, ids: tuple[str, ...] | None, lease: Lease | None, settlement: Settlement
    ) -> None:
        if lease is None or ids is None:
            assert ids is None
            assert lease is None
            return
        kept = [self.run(self.store.get_dead_letter(id_)) for id_ in ids]
        assert [each and each.body for each in kept] == [each.body for each in settlement.letters]

    def _settlement(self, claim: Claim, outcome: Outcome) -> tuple[Lease | None, Settlement]:
        """Return the result of work on a claim, also on what its worker settled before."""
        lease = self.model.lease(claim)
        given = claim.deliveries if lease is None else lease.given.values()
        fated: dict[str, list[Delivery]] = {}
        for delivery, fate in zip(given, cycle(outcome.fates), strict=False):
            word = msgspec.structs.replace(
                delivery, attempts=outcome.attempts, progress=outcome.progress
            )
            fated.setdefault(fate, []).append(word)
        buried = fated.get("buried", [])
        alone = msgspec.structs.replace(
            _delivery(99, "r9", NOON), attempts=1, progress=outcome.progress, crashes=2
        )
        return lease, Settlement(
            removed=tuple(each.id for each in (*fated.get("removed", []), *buried)),
            kept=tuple(fated.get("kept", [])),
            retries=(
                *(Retry(delivery=each, delay=0.0) for each in fated.get("tried again", [])),
                *(Retry(delivery=each, delay=outcome.delay) for each in fated.get("put off", [])),
                *(Retry(delivery=alone, delay=delay) for delay in outcome.alone),
            ),
            letters=tuple(map(_letter, buried)),
            scope=outcome.scope,
            events=outcome.events,
        )

    @rule(which=small)
    def replay(self, which: int) -> None:
        self.model.step()
        letters = self.run(self.store.dead_letters())
        if letters:
            index = which % len(letters)
            assert self.run(self.store.replay([letters[index].id])) == 1
            number, route, progress = self.model.letters.pop(index)
            self.model.waiting.append(Waiting(number, route, self.model.now, progress=progress))

    # Writes

    @rule(id_=st.sampled_from(["w1", "w2"]), account=accounts, text=st.sampled_from("ab"))
    def put_write(self, id_: str, account: str, text: str) -> None:
        self.model.step()
        write = Write(id=id_, account=account, resources=("12", "14"), text=text)
        self.run(self.store.put_write(write))
        first, _ = self.model.writes.get(id_, (self.model.now, None))
        self.model.writes[id_] = first, write

    @rule(id_=st.sampled_from(["w1", "w2"]), part=st.sampled_from("pq"), key=keys)
    def take_write(self, id_: str, part: str, key: bytes) -> None:
        self.model.step()
        expected = id_ in self.model.writes
        expected = expected and self.model.taken.setdefault((id_, part), key) == key
        assert self.run(self.store.take_write(id_, part, key)) == expected

    @rule(account=st.sampled_from(["acme", "acm"]))
    def forget_account(self, account: str) -> None:
        self.model.step()
        expected = self.model.forget_account(account)
        assert self.run(self.store.forget_account(account)) == expected

    # States

    @rule(
        scope=scopes,
        older=small,
        text=st.sampled_from(["", "{}", "é"]),
        new=st.lists(st.integers(0, 9), max_size=3),
        id_=ids,
    )
    def put_state(self, scope: str, older: int, text: str, new: list[int], id_: str) -> None:
        model = self.model
        model.step()
        version = max(model.version(scope) - older, 0)
        state = State(scope=scope, version=version, text=text)
        deliveries = [
            msgspec.structs.replace(_delivery(number, id_, NOON), attempts=1, progress="p1")
            for number in new
        ]
        expected = version == model.version(scope)
        assert self.run(self.store.put_state(state, deliveries=deliveries)) == expected
        if expected:
            model.states[scope] = msgspec.structs.replace(state, version=version + 1)
            for number in new:
                model.waiting.append(Waiting(number, id_, model.now, attempts=1, progress="p1"))

    @rule(scope=scopes, older=st.booleans())
    def drop_state(self, scope: str, *, older: bool) -> None:
        self.model.step()
        version = max(self.model.version(scope) - older, 0)
        expected = 0 < version == self.model.version(scope)
        assert self.run(self.store.drop_state(scope, version)) == expected
        if expected:
            del self.model.states[scope]

    @rule(id_=ids, limit=st.integers(1, 3))
    def peek(self, id_: str, limit: int) -> None:
        self.model.step()
        shown: list[Delivery] = []
        while page := self.run(
            self.store.peek(id_, after=shown[-1].id if shown else "", limit=limit)
        ):
            assert len(page) <= limit
            shown += page
        waiting = [w for w in self.model.waiting if w.route == id_ and w.held is None]
        assert _told(shown) == _told(waiting)

    @invariant()
    def store_tells_what_the_model_knows(self) -> None:
        self.model.step()
        counts, routes, letters, events, states, writes, *found = self.run(self._ask())
        assert counts.waiting == len(self.model.waiting)
        assert counts.dead_letters == len(self.model.letters)
        live = [r for r in self.model.routes.values() if r.state != "retired"]
        assert [_undated(route) for route in routes] == live
        assert [_undated(route) for route in found] == [*map(self.model.routes.get, ROUTES)]
        assert [(_number(d), d.route, d.progress) for d in letters] == self.model.letters
        assert events == b"".join(e for _, scope, e in self.model.remembered if scope == "acme/12")
        assert writes == [write for _, write in self.model.writes.values()]
        assert states == [state for _, state in sorted(self.model.states.items())]

    async def _ask(self) -> list[Any]:
        return await asyncio.gather(
            self.store.counts(),
            self.store.list_routes(),
            self.store.dead_letters(),
            self.store.remembered("acme/12"),
            self.store.list_states(),
            self.store.list_writes({"14", "15"}),
            *map(self.store.get_route, ROUTES),
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


def _number(stored: Delivery | DeadLetter | Waiting) -> int:
    return stored.number if isinstance(stored, Waiting) else int(stored.body)


def _letter(delivery: Delivery) -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=delivery.body,
        reason="given up",
        received_at=NOON,
        buried_at=NOON,
        progress=delivery.progress,
    )


def _keep(waiting: Waiting, word: Delivery) -> None:
    """Keep what a worker, who lives, says of a delivery."""
    waiting.attempts, waiting.progress = word.attempts, word.progress
    waiting.crashes = min(waiting.crashes, 1)


def _told(given: Iterable[Delivery | Waiting]) -> list[tuple[int, int, str, int]]:
    return [(_number(each), each.attempts, each.progress, each.crashes) for each in given]


def _undated(route: Route | None) -> Route | None:
    """Return a route without the time at which it was confirmed."""
    return route and msgspec.structs.replace(route, confirmed_at=None)


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
