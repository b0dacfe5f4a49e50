"""The application: which calls there are.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from .containers import ContainerCalls
from .control import CONTROL, Driven, control
from .crud import CrudCalls
from .deliveries import Start
from .faults import Faults
from .input import Pages
from .middleware import Middleware, be_away, check_host
from .oauth import OAuthCalls, Tokens
from .observers import Watch, observe_calls
from .state import State
from .streams import EventCalls
from .tasks import TaskCalls
from .user_actions import UserActions
from .webhook_creation import WebhookCreation
from .webhooks import WebhookCalls

__all__ = ["API", "application"]

API = "/api/1.0"


def application(
    *,
    state: State,
    actions: UserActions,
    streams: EventCalls,
    tokens: Tokens,
    middleware: Middleware,
    creation: WebhookCreation,
    faults: Faults,
    start: Start,
    asana: Driven,
    watch: Watch,
    host_names: Collection[str],
) -> web.Application:
    """Return the API, the calls of OAuth, and those that drive ``asana``.

    Create calls run as tasks that ``start`` starts; ``watch`` is told of each call.
    ``host_names`` are those that it is called by, besides addresses and localhost.
    """
    pages = Pages(state.now)
    api = web.Application(middlewares=[middleware.pass_through])
    api.add_routes(
        [
            *WebhookCalls(state, creation, faults, start, pages).routes(),
            *streams.routes(),
            *TaskCalls(state, actions).routes(),
            *ContainerCalls(state, actions).routes(),
            *CrudCalls(state, actions, pages).routes(),
        ]
    )
    outage = be_away(faults, but=CONTROL)
    app = web.Application(middlewares=[outage, observe_calls(watch), check_host(host_names)])
    app.add_routes(OAuthCalls(tokens).routes())
    app.add_subapp(API, api)
    app.add_subapp(CONTROL, control(asana))
    return app
