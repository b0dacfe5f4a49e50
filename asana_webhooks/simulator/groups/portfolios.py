"""Portfolios, which hold projects.

Source: https://developers.asana.com/reference/portfolios
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, deletes, links, lists, shows
from ..fields import PERMALINK
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused
from ..user_actions import UserActions
from ..values import COLORS, DATES, one_of, text, truth, user_of
from .custom_fields import settings_of
from .projects import PROJECT

__all__ = ["KINDS", "OPERATIONS", "PORTFOLIO", "add_portfolio", "put", "take"]

PORTFOLIO = Kind(
    name="portfolio",
    fields={
        "name": Field("", text),
        "archived": Field(default=False, write=truth, opt_in=True),
        "color": Field("light-green", one_of(*COLORS[:-1])),
        "created_at": Field(),
        "created_by": Field(of="user"),
        "current_status_update": Field(of="status_update"),
        "custom_field_settings": Field(show=settings_of, of="custom_field_setting"),
        "custom_fields": Field([], of="custom_field"),
        "default_access_level": Field("viewer", one_of("admin", "editor", "viewer")),
        **{name: Field(None, check) for name, check in DATES.items()},
        "members": Field([], of="user"),
        "owner": Field(of="user"),
        "privacy_setting": Field("members_only", one_of("public_to_domain", "members_only")),
        "project_templates": Field([]),
        "public": Field(default=False, write=truth),
        "workspace": Field(of="workspace"),
        **PERMALINK,
    },
)


def add_portfolio(actions: UserActions, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new portfolio that has no projects yet, and that its user owns."""
    user = actions.state.user
    usual = {
        "created_at": actions.now(),
        "created_by": user,
        "owner": user,
        "members": [user],
        "workspace": actions.state.workspace,
    }
    return actions.new(PORTFOLIO, usual | dict(fields))


def put(actions: UserActions, portfolio: AsanaObject, project: AsanaObject) -> None:
    """Have a project in a portfolio."""
    if portfolio not in project.holders:
        project.holders.append(portfolio)
        portfolio.holds.append(project)
        actions.publish(actions.event("added", project, parent=portfolio))


def take(actions: UserActions, portfolio: AsanaObject, project: AsanaObject) -> None:
    """Have a project in a portfolio no longer."""
    if portfolio in project.holders:
        happening = actions.event("removed", project, parent=portfolio)
        project.holders.remove(portfolio)
        portfolio.holds.remove(project)
        actions.publish(happening)


async def create(call: ApiCall) -> web.Response:
    """Create a portfolio in the workspace."""
    call.linked("workspace")
    call.text("name")
    return call.one(add_portfolio(call.actions, call.fields(PORTFOLIO)), status=201)


async def add_item(call: ApiCall) -> web.Response:
    """Put a project into a portfolio."""
    put(call.actions, call.thing, call.linked("item", "project"))
    return call.done()


async def remove_item(call: ApiCall) -> web.Response:
    """Take a project out of a portfolio."""
    take(call.actions, call.thing, call.linked("item", "project"))
    return call.done()


def of_owner(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the portfolios of a user in a workspace."""
    call.linked("workspace")
    if not call.given.get("owner"):
        raise Refused(400, "owner: Missing input")
    owner = user_of(call.state, "owner", call.given["owner"])
    return [each for each in call.state.all("portfolio") if each.fields["owner"] is owner]


def items(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the projects in a portfolio."""
    return [each for each in call.thing.holds if each.alive]


KINDS = (PORTFOLIO,)
OPERATIONS = {
    "getPortfolios": lists(PORTFOLIO, of_owner, "workspace", "owner"),
    "createPortfolio": Operation(create, (*PORTFOLIO.writable, "workspace"), PORTFOLIO),
    "getPortfolio": shows(PORTFOLIO),
    "updatePortfolio": changes(PORTFOLIO),
    "deletePortfolio": deletes(),
    "getItemsForPortfolio": lists(PROJECT, items),
    "addItemForPortfolio": Operation(add_item, ["item"]),
    "removeItemForPortfolio": Operation(remove_item, ["item"]),
    "addMembersForPortfolio": links(PORTFOLIO, "members", "members", add=True, users=True),
    "removeMembersForPortfolio": links(PORTFOLIO, "members", "members", add=False, users=True),
}
