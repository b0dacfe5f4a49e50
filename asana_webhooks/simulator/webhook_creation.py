"""The creation of a webhook: the checks, the handshake in the middle of the call, the answer.

Asana refuses targets that only its own machine could reach, such as ``localhost``; the local one
posts to nothing else, unless told the names of more hosts, so that a test can never reach a
stranger's server.

The handshake is a post to the exact target with ``X-Hook-Secret``, to be answered 200 or 204 with
the same header. The first heartbeat follows it at once, whether or not the caller has its answer.

Source: https://developers.asana.com/reference/createwebhook
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from yarl import URL

from .access import check_access
from .caller import Caller
from .deliveries import Deliveries
from .faults import Fault, Faults
from .filters import checked_filters
from .http_sender import SUCCESS, HttpSender
from .objects import AsanaObject
from .observers import Handshake, Watch
from .responses import Refused, unknown
from .state import Event, State, WebhookRecord
from .subscriptions import check_room

__all__ = ["Targets", "WebhookCreation"]


class Targets:
    """Judges the target of a create call; ``hosts`` are allowed besides loopback.

    Raises ValueError when ``hosts`` is not a collection of bare host names or addresses.
    """

    def __init__(self, *, local: bool, hosts: Iterable[str]) -> None:
        if isinstance(hosts, str):
            msg = f"allow_hosts is a collection of host names; write ({hosts!r},)"
            raise ValueError(msg)
        self._local = local
        self._hosts = frozenset(map(_bare_host, hosts))

    def check(self, target: str) -> None:
        """Return when the target may be called.

        Raises Refused: 400 when it is no URL or a host that is not allowed here, 403 when it is
        one that Asana cannot reach and ``local`` is false.
        """
        host = _host(target)
        if not self._local and _is_local(host):
            raise Refused(403, f"target: The host {host} is not allowed")
        if not _is_loopback(host) and host not in self._hosts:
            raise Refused(
                400, f"target: The local Asana posts to {host} only if allow_hosts has it"
            )


def _bare_host(name: str) -> str:
    try:
        host = URL.build(scheme="http", host=name).host
    except ValueError:
        host = None
    if not host:
        msg = f"allow_hosts takes host names without scheme, port or path, not {name!r}"
        raise ValueError(msg)
    return host.lower()


def _host(target: str) -> str:
    clean = target.isascii() and target.isprintable() and " " not in target
    try:
        url = URL(target, encoded=True)
        usable = clean and url.scheme in ("http", "https") and url.port is not None
        host = url.host if usable else None
    except ValueError:
        host = None
    if not host:
        raise Refused(400, "target: Not a valid URL")
    return host.lower()


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_local(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith((".localhost", ".local"))
    return not address.is_global


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


REMOTE = "The remote server which is intended to receive the webhook"
EXISTS = (
    "Duplicated webhook. You already have an existing webhook for the given resource and target. "
    "Delete the old one before creating another."
)


class WebhookCreation:
    """Carries out create calls.

    ``started`` and ``handshake_done`` are set when a call has arrived and when a handshake was
    answered as it should be; the simulator never clears them. ``release_handshake`` and
    ``release_201`` are what the two slow faults wait for. ``strangers`` are the secrets of
    handshakes that were not genuine.
    """

    def __init__(
        self,
        state: State,
        posts: HttpSender,
        deliveries: Deliveries,
        faults: Faults,
        targets: Targets,
        watch: Watch,
    ) -> None:
        self.started = asyncio.Event()
        self.handshake_done = asyncio.Event()
        self.release_handshake = asyncio.Event()
        self.release_201 = asyncio.Event()
        self.strangers: list[str] = []
        self._state = state
        self._http = posts
        self._deliveries = deliveries
        self._faults = faults
        self._targets = targets
        self._watch = watch

    async def create(self, caller: Caller, fields: Mapping[str, Any]) -> WebhookRecord:
        """Return the webhook that is asked for, established.

        Raises Refused when the call is wrong, or its target does not complete the handshake.
        """
        self.started.set()
        webhook = self._checked(caller, fields)
        self._check_place(webhook)
        await self._shake_hands(webhook)
        self._check_place(webhook)  # another call may have been faster
        webhook.last_success_at = self._state.clock.now()
        self._state.keep(webhook)
        if Fault.EARLY_EVENTS in self._faults:
            await self._deliveries.send_first(webhook, [self._early_event(webhook)])
        self._deliveries.send_heartbeats(webhook)
        if Fault.SLOW_201 in self._faults:
            await self.release_201.wait()
        return webhook

    def _checked(self, caller: Caller, fields: Mapping[str, Any]) -> WebhookRecord:
        resource = self._resource(_text(fields, "resource"))
        target = _text(fields, "target")
        self._targets.check(target)
        given = fields.get("filters")
        filters = checked_filters([] if given is None else given, resource.resource_type)
        return WebhookRecord(
            gid=self._state.new_gid(),
            resource=resource.gid,
            target=target,
            secret=secrets.token_hex(16 if Fault.SHORT_SECRET in self._faults else 32),
            app=caller.app,
            user=caller.user.gid,
            filters=filters,
            created_at=self._state.clock.now(),
        )

    def _check_place(self, webhook: WebhookRecord) -> None:
        others = self._state.webhooks.values()
        wanted = (webhook.app, webhook.resource, webhook.target)
        if any((each.app, each.resource, each.target) == wanted for each in others):
            raise Refused(403, EXISTS)
        check_room(self._state.subscriptions(), webhook.app, webhook.resource)

    def _resource(self, gid: str) -> AsanaObject:
        resource = self._state.find(gid)
        if resource is None:
            raise unknown("resource", gid)
        return check_access(self._state, "resource", resource)

    async def _shake_hands(self, webhook: WebhookRecord) -> None:
        if Fault.NO_HANDSHAKE in self._faults:
            raise Refused(400, f"{REMOTE} did not respond with the handshake secret.")
        if Fault.SLOW_HANDSHAKE in self._faults:
            await self.release_handshake.wait()
        await self._strangers_call(webhook.target, 5 * (Fault.STRANGERS_FLOOD in self._faults))
        await self._strangers_call(webhook.target, Fault.STRANGER_FIRST in self._faults)
        await self._handshake(webhook)
        if Fault.HANDSHAKE_TWICE in self._faults:
            await self._handshake(webhook)
        self.handshake_done.set()
        await self._strangers_call(webhook.target, Fault.STRANGER_AFTER in self._faults)

    async def _handshake(self, webhook: WebhookRecord) -> None:
        answer = await self._http.post(webhook.target, b"{}", {"X-Hook-Secret": webhook.secret})
        echoed = answer.echo == webhook.secret
        self._watch(Handshake(webhook.resource, answer.status, echoed))
        if answer.status is not None and answer.status not in SUCCESS:
            raise Refused(400, f"{REMOTE} responded with an incorrect status code: {answer.status}")
        if not echoed:
            raise Refused(400, f"{REMOTE} did not respond with the handshake secret.")

    async def _strangers_call(self, target: str, count: int) -> None:
        for _ in range(count):
            self.strangers.append(secrets.token_hex(32))
            await self._http.post(target, b"{}", {"X-Hook-Secret": self.strangers[-1]})

    def _early_event(self, webhook: WebhookRecord) -> Event:
        watched = self._state.things[webhook.resource]
        return self._state.event("changed", watched, field="name")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name}: Missing input")
    return value
