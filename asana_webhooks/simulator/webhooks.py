"""The five operations on webhooks, and what they show of one.

Source: https://developers.asana.com/reference/webhooks
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .caller import caller_of
from .deliveries import Start
from .faults import Fault, Faults
from .filters import checked_filters
from .input import Pages, input_fields
from .responses import Refused, answer, choose, named_fields, single, unknown
from .state import State, WebhookRecord, timestamp
from .webhook_creation import WebhookCreation

__all__ = ["WebhookCalls"]

COMPACT = ("gid", "resource_type", "active", "resource", "target")
logger = logging.getLogger(__name__)


class WebhookCalls:
    """Each call sees only the webhooks that its own app made; create calls run as tasks."""

    def __init__(
        self, state: State, creation: WebhookCreation, faults: Faults, start: Start, pages: Pages
    ) -> None:
        self._state = state
        self._pages = pages
        self._creation = creation
        self._faults = faults
        self._start = start

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.post("/webhooks", self.create),
            web.get("/webhooks", self.list),
            web.get("/webhooks/{gid}", self.get),
            web.put("/webhooks/{gid}", self.update),
            web.delete("/webhooks/{gid}", self.delete),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Create a webhook; the call goes on even if the caller hangs up."""
        fields = await input_fields(request)
        response: web.Response = await self._start(self._create(request, fields), "create call")
        if response.status == 201 and Fault.LOST_201 in self._faults and request.transport:
            request.transport.abort()
        return response

    async def _create(self, request: web.Request, fields: Mapping[str, Any]) -> web.Response:
        # A refusal must not leave the task as an exception: it would end all other tasks.
        try:
            webhook = await self._creation.create(caller_of(request), fields)
        except Refused as refusal:
            return refusal.answer()
        logger.debug("webhook %s on %s is created", webhook.gid, webhook.resource)
        if Fault.SERVER_ERROR in self._faults:
            return Refused(500, "Server Error", phrase="6 sad squid snuggle softly").answer()
        return self._created(request, webhook)

    def _created(self, request: web.Request, webhook: WebhookRecord) -> web.Response:
        record = self._record(webhook)
        body: dict[str, Any] = {"data": choose(record, named_fields(request) or list(record))}
        if Fault.NO_SECRET not in self._faults:
            wrong = Fault.WRONG_SECRET in self._faults
            body["X-Hook-Secret"] = secrets.token_hex(32) if wrong else webhook.secret
        return answer(body, status=201, headers={"Location": f"/api/1.0/webhooks/{webhook.gid}"})

    async def list(self, request: web.Request) -> web.Response:
        """List the caller's webhooks in a workspace, those on one resource if asked."""
        self._check_workspace(request.query.get("workspace"))
        names = named_fields(request) or COMPACT
        webhooks = [
            webhook
            for webhook in self._state.webhooks.values()
            if webhook.app == caller_of(request).app
            and not self._is_hidden(webhook)
            and request.query.get("resource") in (None, webhook.resource)
        ]
        return self._pages.answer(request, webhooks, lambda each: choose(self._record(each), names))

    async def get(self, request: web.Request) -> web.Response:
        """Show one webhook; its secret is never shown."""
        return single(request, self._record(self._webhook(request)))

    async def update(self, request: web.Request) -> web.Response:
        """Put other filters in the place of all that a webhook has."""
        webhook = self._webhook(request)
        fields = await input_fields(request)
        if "filters" not in fields:
            raise Refused(400, "filters: Missing input")
        resource = self._state.things[webhook.resource]
        webhook.filters = checked_filters(fields["filters"], resource.resource_type)
        return single(request, self._record(webhook))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a webhook; a post that is under way still arrives, no other follows."""
        self._state.delete(self._webhook(request))
        return answer({"data": {}})

    def _check_workspace(self, gid: str | None) -> None:
        if not gid:
            raise Refused(400, "workspace: Missing input")
        if gid != self._state.workspace.gid:
            raise unknown("workspace", gid)

    def _webhook(self, request: web.Request) -> WebhookRecord:
        gid = request.match_info["gid"]
        webhook = self._state.webhooks.get(gid)
        if webhook is None or webhook.app != caller_of(request).app or self._is_hidden(webhook):
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
