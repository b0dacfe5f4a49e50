"""Kills receivers, workers and servers under load, and counts what was lost: nothing may be.

``python tests/chaos.py --store sqlite|valkey|postgres [--rounds N] [--seed N]`` prints a line for
each round and a table in the end. The exit status is 1 if anything that was answered 200 was not
handled, became a dead letter, or came to its handler before an earlier event of its task, if
something was handled twice without a kill, or if an answer was neither 200 nor 503. The seed
decides what is done and to whom, not how the processes take turns.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import msgspec
from support.replicas import KINDS, LEASE, Replica, Sent, Webhook, World, world_on

WEBHOOKS = 8
TASKS = 4
"""So many tasks have events of a webhook in turn; those of one keep their order."""

FLAKY = (7, 8)
"""The webhooks whose handlers fail now and then, which puts a delivery behind later ones."""

AGAIN = 0.05
"""How many of the acknowledged deliveries come again, at both receivers at once."""

RETRY_AFTER = 0.02
ANSWER_WITHIN = 1.0
"""Seconds that an answer may take before the same is sent to the other receiver; Asana's are 10."""

HARMLESS = {"receiver killed", "receiver stopped", "receiver and worker ended in order"}
"""What may happen without a repeat: no worker dies, or loses its lease."""

SETTLED_WITHIN = 180.0  # after a kill deliveries are handled one at a time


class Report(msgspec.Struct):
    """The result of a run, or of the rounds until now."""

    rounds: int = 0
    kills: Counter[str] = msgspec.field(default_factory=Counter)
    deliveries: int = 0
    acknowledged: set[str] = msgspec.field(default_factory=set)
    handled: Counter[str] = msgspec.field(default_factory=Counter)
    waiting: int = 0
    dead: int = 0
    out_of_order: int = 0
    notes: Counter[str] = msgspec.field(default_factory=Counter)
    answers: Counter[int | None] = msgspec.field(default_factory=Counter)
    sending: float = 0.0
    seconds: float = 0.0

    @property
    def lost(self) -> set[str]:
        return self.acknowledged - set(self.handled)

    @property
    def repeated(self) -> int:
        return sum(count > 1 for count in self.handled.values())

    @property
    def repeated_without_kill(self) -> int:
        """Events that were handled twice though nothing was killed, or slept through a lease."""
        return 0 if self.kills.keys() - HARMLESS else self.repeated

    @property
    def other_answers(self) -> int:
        return sum(
            count for status, count in self.answers.items() if status not in (200, 503, None)
        )

    @property
    def is_well(self) -> bool:
        wrong = self.lost, self.waiting, self.dead, self.out_of_order, self.other_answers
        return not any(wrong) and not self.repeated_without_kill

    def rows(self) -> list[tuple[str, object]]:
        return [
            ("rounds", self.rounds),
            ("kills", self.kills.total()),
            *((f"  {kind}", count) for kind, count in sorted(self.kills.items())),
            ("deliveries acknowledged", self.deliveries),
            ("events acknowledged", len(self.acknowledged)),
            ("handled", len(self.handled)),
            ("handled twice or more", self.repeated),
            ("  though nothing was killed", self.repeated_without_kill),
            ("lost", len(self.lost)),
            ("deliveries not settled in time", self.waiting),
            ("dead letters", self.dead),
            ("out of order for their task", self.out_of_order),
            ("duplicates refused", self.notes["duplicate"]),
            ("late words refused", self.notes["fenced"]),
            ("answered 503", self.answers[503]),
            ("not answered", self.answers[None]),
            ("other answers", self.other_answers),
            ("deliveries a second", round(self.deliveries / max(self.sending, 0.001))),
            ("seconds", round(self.seconds, 1)),
        ]


class Sender:
    """Posts as Asana does: the same bytes until they are answered 200, then the next of a webhook.

    It takes the receivers in turn.
    """

    def __init__(self, world: World, receivers: list[Replica], report: Report) -> None:
        self._world, self._receivers, self._report = world, receivers, report
        self._random = random.Random(0)  # noqa: S311 - chance, no secret
        self._turn = 0
        self.stopping = False

    async def send(self, webhook: Webhook) -> None:
        while not self.stopping:
            sent = webhook.delivery(events=self._random.choice((1, 1, 2, 3)))
            with anyio.fail_after(SETTLED_WITHIN):
                while not await self._post(sent):
                    await anyio.sleep(RETRY_AFTER)
            self._report.acknowledged.update(sent.gids)
            self._report.deliveries += 1
            if self._random.random() < AGAIN:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._post, sent)
                    tasks.start_soon(self._post, sent)

    async def _post(self, sent: Sent) -> bool:
        self._turn += 1
        receiver = self._receivers[self._turn % len(self._receivers)]
        answer = await self._world.post(sent, receiver)
        self._report.answers[None if answer is None else answer.status_code] += 1
        return answer is not None and answer.status_code == 200


class Chaos:
    """Two receivers and two workers on one store, and what is done to them."""

    def __init__(self, world: World, seed: int) -> None:
        self.report = Report()
        self._world = world
        world.http.timeout = ANSWER_WITHIN
        self._random = random.Random(seed)  # noqa: S311 - chance, no secret
        self._receivers = [world.replica(serve=True) for _ in range(2)]
        worker = {"work": True, "pause": 0.01, "flaky": FLAKY, "lease": LEASE}
        self._workers = [world.replica(**worker) for _ in range(2)]
        self._webhooks = [Webhook(number, tasks=TASKS) for number in range(1, WEBHOOKS + 1)]
        self._deck: list[str] = []
        self._kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "receiver killed": self._kill_a_receiver,
            "worker killed": self._kill_a_worker,
            "receiver and worker killed": self._kill_one_of_each,
            "all receivers and workers killed": self._kill_all,
            "receiver and worker ended in order": self._end_one_of_each,
            "receiver stopped": self._stop_a_receiver,
            "worker stopped beyond its lease": self._stop_a_worker,
            "store hangs beyond leases": self._let_the_store_hang,
        }
        if world.place.server is not None:
            self._kinds["server killed"] = self._kill_the_server

    @property
    def kinds(self) -> set[str]:
        return set(self._kinds)

    async def start(self) -> None:
        await self._world.confirm(*self._webhooks)
        await _together(*(replica.start for replica in [*self._receivers, *self._workers]))

    async def play(self, rounds: int, *, tell: Callable[[str], object] = str) -> Report:
        """Play so many rounds, or until one loses something."""
        began = time.monotonic()
        while self.report.rounds < rounds and self.report.is_well:
            deals = self._deal()
            await self._round(deals)
            self.report.rounds += 1
            tell(f"round {self.report.rounds}: {', '.join(deals)}; {self._summary()}")
        self.report.seconds = time.monotonic() - began
        return self.report

    def _summary(self) -> str:
        report = self.report
        return f"{len(report.acknowledged)} acknowledged, {len(report.lost)} lost"

    def _deal(self) -> list[str]:
        """Return one or two kinds; each comes before any comes again."""
        dealt = []
        for _ in range(self._random.choice((1, 2, 2))):
            if not self._deck:
                self._deck = sorted(self._kinds)
                self._random.shuffle(self._deck)
            dealt.append(self._deck.pop())
        return dealt

    async def _round(self, kinds: list[str]) -> None:
        sender = Sender(self._world, self._receivers, self.report)
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for webhook in self._webhooks:
                tasks.start_soon(sender.send, webhook)
            for kind in kinds:
                await self._more_acknowledged(self._random.randrange(20, 300))
                await self._kinds[kind]()
                self.report.kills[kind] += 1
            await self._more_acknowledged(100)
            sender.stopping = True
        self.report.sending += time.monotonic() - began
        await self._settle()

    async def _more_acknowledged(self, count: int) -> None:
        wanted = len(self.report.acknowledged) + count
        with anyio.fail_after(SETTLED_WITHIN):
            while len(self.report.acknowledged) < wanted:
                await anyio.sleep(0.005)

    async def _settle(self) -> None:
        """Wait until all is handled, or as long as it may take; then compare."""
        with anyio.move_on_after(SETTLED_WITHIN):
            while not (self._is_handled() and await self._world.is_empty()):
                await anyio.sleep(0.05)
        self.report.waiting = await self._world.waiting()
        gids = self._world.gids()
        self.report.handled = Counter(gids)
        self.report.notes = Counter(self._world.notes())
        self.report.out_of_order = out_of_order(gid for gid in gids if Webhook.of(gid) not in FLAKY)
        async with self._world.place.store() as store:
            self.report.dead = len(await store.dead_letters())

    def _is_handled(self) -> bool:
        return self.report.acknowledged <= set(self._world.gids())

    # What may happen

    async def _kill_a_receiver(self) -> None:
        await _kill(self._random.choice(self._receivers))

    async def _kill_a_worker(self) -> None:
        await _kill(self._random.choice(self._workers))

    async def _kill_one_of_each(self) -> None:
        await _kill(self._random.choice(self._receivers), self._random.choice(self._workers))

    async def _kill_all(self) -> None:
        await _kill(*self._receivers, *self._workers)

    async def _end_one_of_each(self) -> None:
        replicas = self._random.choice(self._receivers), self._random.choice(self._workers)
        for replica in replicas:
            replica.terminate()
        for replica in replicas:
            if await anyio.to_thread.run_sync(replica.wait) != 0:
                raise RuntimeError(self._world.log())
        await _together(*(replica.start for replica in replicas))

    async def _stop_a_receiver(self) -> None:
        """Put a receiver to sleep until Asana gives up; repeats are stored beside it."""
        await self._stop(self._random.choice(self._receivers), ANSWER_WITHIN)

    async def _stop_a_worker(self) -> None:
        """Put a worker to sleep until its lease is over; its words then count for nothing."""
        await self._stop(self._random.choice(self._workers), LEASE)

    async def _stop(self, replica: Replica, longer_than: float) -> None:
        replica.send(signal.SIGSTOP)
        await anyio.sleep(longer_than + self._random.uniform(0.2, 1.0))
        replica.send(signal.SIGCONT)

    async def _let_the_store_hang(self) -> None:
        with self._world.place.hanging():
            await anyio.sleep(LEASE + self._random.uniform(0.2, 1.0))

    async def _kill_the_server(self) -> None:
        server = self._world.place.server
        assert server is not None
        await anyio.to_thread.run_sync(server.kill)
        await anyio.sleep(self._random.uniform(0.0, 0.5))
        await anyio.to_thread.run_sync(server.start)


async def _kill(*replicas: Replica) -> None:
    for replica in replicas:
        if replica.kill() != -signal.SIGKILL:
            msg = "a replica had ended by itself"
            raise RuntimeError(msg)
    await _together(*(replica.start for replica in replicas))


async def _together(*calls: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(call)


def out_of_order(gids: Iterable[str]) -> int:
    """Return how many events were first handled after a later one of their webhook and task."""
    latest: dict[tuple[int, int], int] = {}
    late = 0
    for gid in dict.fromkeys(gids):  # repeats come later than what they repeat
        number = int(gid)
        task = Webhook.of(gid), number % TASKS
        late += number < latest.get(task, 0)
        latest[task] = max(number, latest.get(task, 0))
    return late


async def run(kind: str, folder: Path, *, seed: int, rounds: int) -> Report:
    async with world_on(kind, folder) as world:
        chaos = Chaos(world, seed)
        await chaos.start()
        try:
            return await chaos.play(rounds, tell=_say)
        except BaseException:
            _say(world.log()[-4000:])
            raise


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill replicas under load; nothing may be lost.")
    parser.add_argument("--store", choices=KINDS, default="sqlite")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options = parser.parse_args()
    _say(f"store {options.store}, seed {options.seed}")
    with TemporaryDirectory() as name:
        report = anyio.run(
            lambda: run(options.store, Path(name), seed=options.seed, rounds=options.rounds)
        )
    for label, value in report.rows():
        _say(f"{label:35}{value!s:>10}")
    return 0 if report.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
