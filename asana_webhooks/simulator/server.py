"""The HTTP face: which calls there are, and those that are not about webhooks.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from aiohttp import web

from .answers import answer, choose, named_fields, page, single, unknown
from .creation import Creation
from .deliveries import Start
from .door import Door
from .faults import Faults
from .state import State
from .webhook_calls import WebhookCalls

__all__ = ["API", "application"]

API = "/api/1.0"


def application(
    state: State, creation: Creation, faults: Faults, start: Start, *, retry_after: int
) -> web.Application:
    """Return the API as an application; create calls run as tasks that ``start`` starts."""
    webhooks, objects = WebhookCalls(state, creation, faults, start), ObjectCalls(state)
    app = web.Application(middlewares=[Door(faults, retry_after=retry_after).pass_through])
    app.add_routes(
        [
            web.post(f"{API}/webhooks", webhooks.create),
            web.get(f"{API}/webhooks", webhooks.list),
            web.get(f"{API}/webhooks/{{gid}}", webhooks.get),
            web.put(f"{API}/webhooks/{{gid}}", webhooks.update),
            web.delete(f"{API}/webhooks/{{gid}}", webhooks.delete),
            web.get(f"{API}/workspaces", objects.workspaces),
            web.get(f"{API}/users/me", objects.me),
            web.get(f"{API}/projects/{{gid}}", objects.project),
        ]
    )
    return app


class ObjectCalls:
    """Calls that show the user and what the user works with."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def workspaces(self, request: web.Request) -> web.Response:
        """List the workspaces of the user."""
        workspace = self._state.workspace.compact
        names = named_fields(request) or list(workspace)
        return answer(page(request, [choose(workspace, names)]))

    async def me(self, request: web.Request) -> web.Response:
        """Show the user, to whom every token belongs."""
        workspaces = [self._state.workspace.compact]
        return single(request, self._state.user.compact | {"workspaces": workspaces})

    async def project(self, request: web.Request) -> web.Response:
        """Show one project."""
        gid = request.match_info["gid"]
        thing = self._state.things.get(gid)
        if thing is None or thing.resource_type != "project":
            raise unknown("project", gid)
        return single(request, thing.compact | {"workspace": self._state.workspace.compact})
