"""The HTTP face: which calls there are.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from aiohttp import web

from .control import CONTROL, Driven, control
from .creation import Creation
from .deliveries import Start
from .door import Door
from .event_calls import EventCalls
from .faults import Faults
from .feed import Feed
from .oauth_calls import OAuthCalls
from .pages import Pages
from .place_calls import PlaceCalls
from .state import State
from .task_calls import TaskCalls
from .tokens import Tokens
from .traffic import Watch, teller
from .webhook_calls import WebhookCalls
from .work import Work
from .work_calls import WorkCalls

__all__ = ["API", "application"]

API = "/api/1.0"


def application(
    *,
    state: State,
    work: Work,
    feed: Feed,
    tokens: Tokens,
    door: Door,
    creation: Creation,
    faults: Faults,
    start: Start,
    asana: Driven,
    watch: Watch,
) -> web.Application:
    """Return the API, the calls of OAuth, and those that drive ``asana``.

    Create calls run as tasks that ``start`` starts; ``watch`` is told of each call.
    """
    pages = Pages(state.now)
    api = web.Application(middlewares=[door.pass_through])
    api.add_routes(
        [
            *WebhookCalls(state, creation, faults, start, pages).routes(),
            *EventCalls(state, feed).routes(),
            *TaskCalls(state, work).routes(),
            *PlaceCalls(state, work).routes(),
            *WorkCalls(state, work, pages).routes(),
        ]
    )
    app = web.Application(middlewares=[teller(watch)])
    app.add_routes(OAuthCalls(state, tokens).routes())
    app.add_subapp(API, api)
    app.add_subapp(CONTROL, control(asana))
    return app
