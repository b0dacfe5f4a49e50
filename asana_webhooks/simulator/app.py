"""The application: which operations there are.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from aiohttp import web
from yarl import URL

from .call import OF_LISTS, ApiCall, Operation, Service
from .caller import caller_of
from .control import CONTROL, Driven, control
from .faults import Faults
from .groups import (
    attachments,
    custom_fields,
    dependencies,
    duplicates,
    goals,
    memberships,
    portfolios,
    projects,
    search,
    sections,
    statuses,
    stories,
    tags,
    tasks,
    teams,
    time_tracking,
    user_task_lists,
    users,
    workspaces,
)
from .groups.batch import Action, BatchCalls
from .groups.events import EVENT, EventCalls
from .groups.webhooks import WEBHOOK, WebhookCalls
from .input import OPTIONS, Inputs, inputs, names_of_fields
from .middleware import API, Middleware, be_away, check_host
from .oauth import OAuthCalls, Tokens
from .objects import Kind
from .observers import Watch, observe_calls
from .operations import Described, find
from .responses import Refused

__all__ = ["API", "KINDS", "OPERATIONS", "application"]

SERVED = (
    attachments,
    custom_fields,
    dependencies,
    duplicates,
    goals,
    memberships,
    portfolios,
    projects,
    search,
    sections,
    statuses,
    stories,
    tags,
    tasks,
    teams,
    time_tracking,
    user_task_lists,
    users,
    workspaces,
)
"""The groups of operations, each a module."""

OPERATIONS: Mapping[str, Operation] = {
    name: each for group in SERVED for name, each in group.OPERATIONS.items()
}
"""What is served by the names of Asana's operations, without webhooks and events."""

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (*(kind for group in SERVED for kind in group.KINDS), EVENT, WEBHOOK)
}
"""The records by their types."""

IGNORED = "Asana-Simulator"
"""The header that names what of a call was passed over."""

MOST_SAID = 10_000
"""How many ignored names are remembered, so that none is said twice."""

logger = logging.getLogger(__name__)


def application(
    *,
    service: Service,
    webhooks: WebhookCalls,
    streams: EventCalls,
    tokens: Tokens,
    middleware: Middleware,
    faults: Faults,
    asana: Driven,
    watch: Watch,
    host_names: Collection[str],
) -> web.Application:
    """Return the API, the calls of OAuth, and those that drive ``asana``.

    ``watch`` is told of each call. ``host_names`` are those that it is called by, besides addresses
    and localhost.
    """
    operations = {**OPERATIONS, **webhooks.operations(), **streams.operations()}
    api = web.Application(middlewares=[middleware.pass_through])
    api.router.add_route("*", "/{path:.*}", _Router(service, tokens, operations).serve)
    outage = be_away(faults, but=CONTROL)
    app = web.Application(middlewares=[outage, observe_calls(watch), check_host(host_names)])
    app.add_routes(OAuthCalls(tokens).routes())
    app.add_subapp(API, api)
    app.add_subapp(CONTROL, control(asana))
    return app


class _Router:
    """Has calls answered by the operations that their paths name."""

    def __init__(
        self, service: Service, tokens: Tokens, operations: Mapping[str, Operation]
    ) -> None:
        self._service = service
        self._tokens = tokens
        self._operations = {**operations, **BatchCalls(self.dispatch).operations()}
        self._said: set[tuple[str, str]] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a call below the API, also of what is not served."""
        places = find(request.rel_url.path_safe.removeprefix(API))
        if request.method not in places:
            raise web.HTTPMethodNotAllowed(request.method, places)
        described, gids = places[request.method]
        operation = self._operations.get(described.name)
        if operation is None:
            return await _refuse(described.name, request)
        given = await inputs(request)
        return await self._answer(described, operation, request, given, gids, request.url)

    async def _answer(
        self,
        described: Described,
        operation: Operation,
        request: web.Request,
        given: Inputs,
        gids: Mapping[str, str],
        url: URL,
    ) -> web.Response:
        caller = caller_of(request)
        self._tokens.check_scope(caller.token, described.scope)
        is_get = described.method == "GET"
        ignored = operation.ignored(given, self._service.kinds, get=is_get)
        if ignored:
            self._say(described.name, ignored)
        takes = operation.takes
        call = ApiCall(self._service, described, request, caller, given, takes, gids, url)
        response = await operation.answer(call)
        if ignored:
            response.headers[IGNORED] = f"ignored={','.join(map(_printable, ignored))}"
        return response

    async def dispatch(self, call: ApiCall, action: Action) -> web.Response:
        """Answer an action of a batch; raises Refused as a call of its own would."""
        url = _url_of(action)
        places = find(url.path.removeprefix(API))
        if action.method.upper() not in places:
            raise Refused(404, "No matching route for request")
        described, gids = places[action.method.upper()]
        operation = self._operations.get(described.name)
        if operation is None or described.name == call.described.name:
            return await _refuse(described.name, call.request)
        paging = {name: str(action.options[name]) for name in OF_LISTS if name in action.options}
        url = call.request.url.join(url).update_query(paging)
        given, names = action.inputs
        queried = {name: value for name, value in url.query.items() if name not in OPTIONS}
        names = [*names, *names_of_fields(",".join(url.query.getall("opt_fields", ())))]
        whole = Inputs({**queried, **given}, names)
        return await self._answer(described, operation, call.request, whole, gids, url)

    def _say(self, operation: str, ignored: Collection[str]) -> None:
        """Refuse what is ignored, or say it once; the log of a long run must not fill with it."""
        named = ", ".join(map(_printable, ignored))
        if self._service.strict:
            raise Refused(501, f"The local Asana does not keep {named} of {operation}")
        said = {(operation, name) for name in ignored}
        if not said <= self._said:
            logger.warning("the local Asana ignores %s of %s", named, operation)
        if len(self._said) < MOST_SAID:
            self._said |= said


def _url_of(action: Action) -> URL:
    try:
        return URL(f"{API}/{action.relative_path.strip('/')}")
    except ValueError:
        raise Refused(400, "relative_path: Not a valid path") from None


async def _refuse(operation: str, request: web.Request) -> web.Response:
    raise Refused(501, f"The local Asana does not serve {operation} of Asana's API")


def _printable(name: str) -> str:
    text = name[:100]
    return text if text.isascii() and text.isprintable() and "," not in text else ascii(text)
