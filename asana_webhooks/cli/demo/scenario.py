"""The steps of ``asana-webhooks demo``: the life of a webhook, checked at each step.

Nothing in it is staged but Asana itself: the client, its receiver and its store are those that a
program uses, and each claim is printed after it was found to be true.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import AsyncExitStack
from typing import Any

import click

from ..._background import background_task
from ..._signals import stopping, until_told
from ...errors import AsanaWebhooksError
from ...models import Webhook
from ...signature import sign
from ...simulator import Fault
from ...stores import Store
from ..inspector import Inspector, handle_again, post_again
from ..output import describe
from ..recording import Recorder
from .environment import FILE, PATIENCE, TOKEN, DemoEnvironment, Running
from .reporter import CheckFailed, Reporter

__all__ = ["StepFailed", "run_demo", "run_with_inspector"]

LIMIT = 30.0
"""Seconds that all steps may take together."""


class StepFailed(click.ClickException):
    """A step did not go as it should; the message names it."""


async def run_with_inspector(reporter: Reporter, port: int) -> None:
    """Run the demo beside a page that shows its deliveries, then stay until told to stop."""
    recorder = Recorder()
    with stopping() as told:
        async with DemoEnvironment(recorder) as environment, environment.open_store() as store:
            actions = {
                "Post again": post_again(lambda: environment.address),
                "Handle again": handle_again(recorder, store),
            }
            async with Inspector(recorder, store, actions=actions, port=port) as inspector:
                reporter.say(f"inspector: {inspector.url}")
                await until_told(told, _run_and_stay(reporter, environment))


async def _run_and_stay(reporter: Reporter, environment: DemoEnvironment) -> None:
    await run_demo(reporter, environment)
    async with environment.next_client():
        reporter.say("the inspector and its client stay until Ctrl-C")
        await asyncio.Event().wait()


async def run_demo(reporter: Reporter, environment: DemoEnvironment | None = None) -> None:
    """Run the steps of the demo, in an environment of its own or on this one.

    Raises StepFailed when anything in it is not as claimed.
    """
    started = time.monotonic()
    reporter.title("The life of a webhook, between a local Asana and a client on this machine")
    try:
        async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
            if environment is None:
                environment = await stack.enter_async_context(DemoEnvironment())
            await _Scenario(reporter, environment).play()
    except Exception as error:
        reason = _reason(error)
        reporter.failure(reason)
        msg = f"{reporter.place} failed; {reason} (`asana-webhooks --debug demo` shows more)"
        raise StepFailed(msg) from error
    reporter.summary(time.monotonic() - started)


def _reason(error: Exception) -> str:
    if isinstance(error, CheckFailed | AsanaWebhooksError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"the story did not end within {LIMIT:g} s"
    return f"{type(error).__name__}: {error}"


class _Scenario:
    """The steps, in the order in which they are told."""

    def __init__(self, reporter: Reporter, environment: DemoEnvironment) -> None:
        self._reporter = reporter
        self._environment = environment
        self._asana = environment.asana
        self._project = environment.asana.project
        self._told = 0

    async def play(self) -> None:
        """Play all steps. Raises CheckFailed, or what went wrong."""
        await self._start()
        async with self._environment.first_client() as running:
            await self._check_ready(running)
            webhook = await self._establish(running)
            await self._cause_events()
            await self._forge(webhook)
            await self._repeat(webhook)
        await self._restart(webhook)

    # 1

    async def _start(self) -> None:
        self._reporter.step("A local Asana and a client are up")
        self._reporter.say(f"Asana: {self._asana.base_url}")
        answer = await self._environment.http.get(
            f"{self._asana.base_url}/projects/{self._project}",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        self._reporter.check(
            f"it knows the project Bugs, {self._project}",
            that=answer.status_code == 200 and answer.json()["data"]["name"] == "Bugs",
            but=f"it answered {answer.status_code}",
        )
        self._reporter.check("it has no webhook yet", that=not self._asana.webhooks)

    async def _check_ready(self, running: Running) -> None:
        address = self._environment.address
        self._reporter.say(f"client: {address}, its store is {FILE} in a temporary directory")
        answer = await self._environment.http.get(f"{address}/readyz")
        self._check_status("its receiver is ready, and so is its store", answer.status_code, 200)

    # 2

    async def _establish(self, running: Running) -> Webhook:
        self._reporter.step("One awaited call establishes a webhook")
        self._reporter.say(f'webhook = await client.establish("{self._project}")')
        self._asana.faults.add(Fault.SLOW_201)  # its answer waits, for a look at what was before
        establishing = running.client.establish(self._project, timeout=PATIENCE)
        async with background_task(establishing, "create call") as call:
            secret = await self._look_into(call, running.store)
            self._asana.faults.discard(Fault.SLOW_201)
            self._asana.release_201.set()
            webhook = await call
        await self._check_established(webhook, secret, running.store)
        return webhook

    async def _look_into(self, call: asyncio.Task[Webhook], store: Store) -> str:
        """Return the secret that a handshake left in the store while the call is under way."""
        async with background_task(self._asana.handshake_done.wait(), "handshake") as handshake:
            first: tuple[asyncio.Task[Any], ...] = (call, handshake)
            await asyncio.wait(first, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            await call  # what it raises says more than the check
        self._reporter.check(
            "in the middle of it came Asana's handshake; its secret was echoed",
            that=self._asana.handshake_done.is_set() and not call.done(),
        )
        routes = await store.list_routes(self._project)
        candidates = [secret for route in routes for secret in route.candidates]
        self._reporter.check(
            "that secret was in the store before Asana answered the call",
            that=len(candidates) == 1 and routes[0].state == "reserved",
            but=f"{len(candidates)} secrets were there",
        )
        return candidates[0]

    async def _check_established(self, webhook: Webhook, secret: str, store: Store) -> None:
        record = self._asana.webhooks.get(webhook.gid)
        self._reporter.check(
            f"Asana answered with webhook {webhook.gid} and the same secret",
            that=record is not None and record.secret == webhook.secret == secret,
        )
        routes = await store.list_routes(self._project)
        self._reporter.check(
            f"the secret is stored in {FILE}: {len(secret)} characters, never shown",
            that=[(each.state, each.secret) for each in routes] == [("confirmed", secret)],
        )
        await self._environment.settled()
        self._reporter.check(
            "the first heartbeat was verified with it: 200",
            that=[each.status for each in self._asana.deliveries] == [200],
        )

    # 3

    async def _cause_events(self) -> None:
        self._reporter.step("Somebody creates a task and completes it")
        self._reporter.say("@client.on()")
        self._reporter.say("async def handle(event): ...")
        task = await self._asana.create_task("Fix the login", project=self._project)
        await self._asana.complete_task(task)
        await self._check_handled("the handler was called once with each event that Asana signed")
        wanted = {
            f"task {task} added to project {self._project}",
            f"task {task} changed: completed",
        }
        self._reporter.check(
            "they say that the task is new in the project, and completed",
            that=wanted <= {describe(event) for event in self._environment.handled},
        )

    # 4

    async def _forge(self, webhook: Webhook) -> None:
        self._reporter.step("A forged delivery is refused")
        genuine = self._environment.accepted()[-1]
        wrong = sign(genuine.body, secrets.token_hex(32))
        status = await self._asana.deliver(webhook.gid, genuine.body, signature=wrong)
        self._check_status("the right address, but another's signature: 401", status, 401)
        altered = _altered(genuine.body)
        status = await self._asana.deliver(webhook.gid, altered, signature=genuine.signature)
        self._check_status("a genuine signature, but an altered body: 401", status, 401)

    # 5

    async def _repeat(self, webhook: Webhook) -> None:
        self._reporter.step("A repeated delivery is handled once")
        repeated = self._environment.accepted()[-1]
        status = await self._asana.deliver(webhook.gid, repeated.body)
        self._check_status("the last delivery came again, the same bytes: 200", status, 200)
        task = json.loads(repeated.body)["events"][0]["resource"]["gid"]
        await self._asana.add_comment(task, "Works again, thank you!")
        await self._check_handled("a comment after it was handled, and nothing twice")

    # 6

    async def _restart(self, webhook: Webhook) -> None:
        self._reporter.step("A new client on the same file carries on")
        await self._check_nothing_waits("the client was closed, and left nothing unhandled")
        async with self._environment.next_client() as running:
            self._reporter.say(f'webhook = await client.ensure("{self._project}")')
            self._check_found(await running.client.ensure(self._project), webhook)
            await self._asana.create_task("Write a test for it", project=self._project)
            await self._check_handled("a new event was verified with it, and handled once")
        await self._check_nothing_waits("closed again: nothing waits, nothing was given up")

    def _check_found(self, found: Webhook, webhook: Webhook) -> None:
        gids = list(self._asana.webhooks)
        self._reporter.check(
            f"the new client found webhook {webhook.gid}; Asana has no other",
            that=gids == [webhook.gid] == [found.gid],
            but=f"it has {found.gid}, and Asana has {', '.join(gids)}",
        )
        self._reporter.check(
            "the secret of the handshake came with it",
            that=found.secret == webhook.secret,
        )

    # Checks that more than one step makes

    def _check_status(self, claim: str, status: int | None, wanted: int) -> None:
        self._reporter.check(claim, that=status == wanted, but=f"it was answered {status}")

    async def _check_handled(self, claim: str) -> None:
        await self._environment.settled()
        sent = [e for each in self._environment.accepted() for e in json.loads(each.body)["events"]]
        await self._environment.has_handled(len(sent))
        handled = self._environment.handled
        self._tell_events()
        keys = {event.key for event in handled}
        self._reporter.check(
            claim,
            that=len(keys) == len(sent) and [event.json() for event in handled] == sent,
            but=f"of {len(sent)} events {len(keys)} were handled, in {len(handled)} calls",
        )

    def _tell_events(self) -> None:
        for event in self._environment.handled[self._told :]:
            self._reporter.event(describe(event))
        self._told = len(self._environment.handled)

    async def _check_nothing_waits(self, claim: str) -> None:
        async with self._environment.open_store() as store:
            waiting, letters = (await store.counts()).waiting, await store.dead_letters()
        self._reporter.check(
            claim,
            that=waiting == len(letters) == 0,
            but=f"{waiting} deliveries wait, {len(letters)} were given up",
        )


def _altered(body: bytes) -> bytes:
    fields = json.loads(body)
    fields["events"][0]["resource"]["gid"] = "1"
    return json.dumps(fields).encode()
