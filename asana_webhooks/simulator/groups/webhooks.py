"""The five operations on webhooks, and what they show of one.

Source: https://developers.asana.com/reference/webhooks
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..deliveries import Start
from ..faults import Fault, Faults
from ..filters import checked_filters
from ..objects import Field, Kind, choose
from ..responses import Refused, answer, unknown
from ..state import State, WebhookRecord, timestamp
from ..webhook_creation import WebhookCreation

__all__ = ["WEBHOOK", "WebhookCalls"]

COMPACT = ("gid", "resource_type", "active", "resource", "target")
WEBHOOK = Kind(
    name="webhook",
    compact=COMPACT[2:],
    fields={
        "resource": Field(),
        "target": Field(),
        "active": Field(),
        "is_workspace_webhook": Field(),
        "created_at": Field(),
        "last_failure_at": Field(),
        "last_failure_content": Field(),
        "last_success_at": Field(),
        "filters": Field(
            of=dict.fromkeys(("resource_type", "resource_subtype", "action", "fields"), "")
        ),
        "delivery_retry_count": Field(),
        "next_attempt_after": Field(),
        "failure_deletion_timestamp": Field(),
    },
)
"""The record; a ``WebhookRecord`` is what is kept of a webhook."""

logger = logging.getLogger(__name__)


class WebhookCalls:
    """Each call sees only the webhooks that its own app made; create calls run as tasks."""

    def __init__(
        self, state: State, creation: WebhookCreation, faults: Faults, start: Start
    ) -> None:
        self._state = state
        self._creation = creation
        self._faults = faults
        self._start = start

    def operations(self) -> Mapping[str, Operation]:
        """Return what is served, by the names of Asana's operations."""
        return {
            "getWebhooks": Operation(self.list, ["workspace", "resource"], WEBHOOK),
            "createWebhook": Operation(self.create, ["resource", "target", "filters"], WEBHOOK),
            "getWebhook": Operation(self.get, shows=WEBHOOK),
            "updateWebhook": Operation(self.update, ["filters"], WEBHOOK),
            "deleteWebhook": Operation(self.delete),
        }

    async def create(self, call: ApiCall) -> web.Response:
        """Create a webhook; the call goes on even if the caller hangs up."""
        response: web.Response = await self._start(self._create(call), "create call")
        transport = call.request.transport
        if response.status == 201 and Fault.LOST_201 in self._faults and transport:
            transport.abort()
        return response

    async def _create(self, call: ApiCall) -> web.Response:
        # A refusal must not leave the task as an exception: it would end all other tasks.
        try:
            webhook = await self._creation.create(call.caller, call.given)
        except Refused as refusal:
            return refusal.answer()
        logger.debug("webhook %s on %s is created", webhook.gid, webhook.resource)
        if Fault.SERVER_ERROR in self._faults:
            return Refused(500, "Server Error", phrase="6 sad squid snuggle softly").answer()
        return self._created(call, webhook)

    def _created(self, call: ApiCall, webhook: WebhookRecord) -> web.Response:
        record = self._record(webhook)
        body: dict[str, Any] = {"data": choose(record, call.names or list(record))}
        if Fault.NO_SECRET not in self._faults:
            wrong = Fault.WRONG_SECRET in self._faults
            body["X-Hook-Secret"] = secrets.token_hex(32) if wrong else webhook.secret
        return answer(body, status=201, headers={"Location": f"/api/1.0/webhooks/{webhook.gid}"})

    async def list(self, call: ApiCall) -> web.Response:
        """List the caller's webhooks in a workspace, those on one resource if asked."""
        self._check_workspace(call.given.get("workspace"))
        names = call.names or COMPACT
        webhooks = [
            webhook
            for webhook in self._state.webhooks.values()
            if webhook.app == call.caller.app
            and not self._is_hidden(webhook)
            and call.given.get("resource") in (None, webhook.resource)
        ]
        return call.service.pages.answer(
            call.url, webhooks, lambda each: choose(self._record(each), names)
        )

    async def get(self, call: ApiCall) -> web.Response:
        """Show one webhook; its secret is never shown."""
        return call.one(self._record(self._webhook(call)))

    async def update(self, call: ApiCall) -> web.Response:
        """Put other filters in the place of all that a webhook has."""
        webhook = self._webhook(call)
        if "filters" not in call.given:
            raise Refused(400, "filters: Missing input")
        resource = self._state.things[webhook.resource]
        webhook.filters = checked_filters(call.given["filters"], resource.resource_type)
        return call.one(self._record(webhook))

    async def delete(self, call: ApiCall) -> web.Response:
        """Delete a webhook; a post that is under way still arrives, no other follows."""
        self._state.delete(self._webhook(call))
        return call.done()

    def _check_workspace(self, gid: str | None) -> None:
        if not gid:
            raise Refused(400, "workspace: Missing input")
        if gid != self._state.workspace.gid:
            raise unknown("workspace", gid)

    def _webhook(self, call: ApiCall) -> WebhookRecord:
        gid = call.gids["webhook_gid"]
        webhook = self._state.webhooks.get(gid)
        if webhook is None or webhook.app != call.caller.app or self._is_hidden(webhook):
            raise unknown("webhook", gid)
        return webhook

    def _is_hidden(self, webhook: WebhookRecord) -> bool:
        return Fault.NOT_FOUND in self._faults or Fault.NOT_FOUND in webhook.faults

    def _record(self, webhook: WebhookRecord) -> dict[str, Any]:
        return {
            "gid": webhook.gid,
            "resource_type": "webhook",
            "resource": self._state.things[webhook.resource],
            "target": webhook.target,
            "active": webhook.active,
            "is_workspace_webhook": False,  # as recorded, even for a webhook on a workspace
            "created_at": timestamp(webhook.created_at),
            "last_failure_at": timestamp(webhook.last_failure_at),
            "last_failure_content": webhook.last_failure_content,
            "last_success_at": timestamp(webhook.last_success_at),
            "filters": webhook.filters,
            "delivery_retry_count": webhook.delivery_retry_count,
            "next_attempt_after": timestamp(webhook.next_attempt_after),
            "failure_deletion_timestamp": timestamp(webhook.failure_deletion_timestamp),
        }
