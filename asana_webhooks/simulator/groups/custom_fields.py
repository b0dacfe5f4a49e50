"""Custom fields: their definitions in the workspace, their settings on projects, values on tasks.

What an event says of a value was seen for enumerations only; of other types it says the field.

Sources: https://developers.asana.com/reference/custom-fields,
https://developers.asana.com/reference/custom-field-settings
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, deletes, lists, shows
from ..events import PublishedEvent
from ..objects import ABSENT, AsanaObject, Field, Kind
from ..responses import Refused
from ..state import State
from ..user_actions import UserActions
from ..values import (
    COLORS,
    day,
    moment,
    number,
    one_of,
    or_null,
    place_beside,
    required_text,
    text,
    truth,
    users_of,
)

__all__ = [
    "CUSTOM_FIELD",
    "KINDS",
    "OPERATIONS",
    "SETTING",
    "add_setting",
    "change_values",
    "checked_values",
    "settings_of",
    "values_of",
]

TYPES = ("text", "enum", "multi_enum", "number", "date", "people")
FORMATS = ("currency", "identifier", "percentage", "custom", "duration", "none")
VALUES = {
    "text": "text_value",
    "enum": "enum_value",
    "multi_enum": "multi_enum_values",
    "number": "number_value",
    "date": "date_value",
    "people": "people_value",
}
"""The field of a record that holds the value, by the type of the custom field."""

LISTS = ("multi_enum", "people")


def _type(field: AsanaObject) -> str:
    return field.resource_subtype


def _options(field: AsanaObject) -> list[AsanaObject]:
    return field.parts_of("enum_option")


DEFINED: Mapping[str, Field] = {
    "name": Field("", text),
    "type": Field(show=_type),
    "enum_options": Field(show=_options, of="enum_option"),
    "enabled": Field(default=True),
    "representation_type": Field(show=_type),
    "id_prefix": Field(),
    "input_restrictions": Field([]),
    "is_formula_field": Field(default=False),
}
CUSTOM_FIELD = Kind(
    name="custom_field",
    compact=tuple(DEFINED),
    subtype="text",
    fields={
        **DEFINED,
        "description": Field("", text, opt_in=True),
        "precision": Field(ABSENT, number),
        "format": Field("none", one_of(*FORMATS)),
        "currency_code": Field(None, or_null(text)),
        "custom_label": Field(None, or_null(text)),
        "custom_label_position": Field(None, or_null(one_of("prefix", "suffix"))),
        "is_global_to_workspace": Field(default=True),
        "has_notifications_enabled": Field(default=False, write=truth),
        "asana_created_field": Field(),
        "is_value_read_only": Field(default=False),
        "created_by": Field(of="user"),
        "privacy_setting": Field("public_with_guests"),
        "default_access_level": Field("user"),
        **{name: Field(ABSENT) for name in (*VALUES.values(), "display_value")},
    },
)
ENUM_OPTION = Kind(
    name="enum_option",
    compact=("name", "enabled", "color"),
    fields={
        "name": Field("", text),
        "enabled": Field(default=True, write=truth),
        "color": Field("none", one_of(*(color.removeprefix("dark-") for color in COLORS), *COLORS)),
    },
)
SETTING = Kind(
    name="custom_field_setting",
    compact=("custom_field", "is_important", "parent", "project"),
    fields={
        "custom_field": Field(of="custom_field"),
        "is_important": Field(default=False, write=truth),
        "parent": Field(),
        "project": Field(),
    },
)


# Definitions and settings


def add_field(actions: UserActions, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new custom field of the workspace, with these names of options if it has any."""
    fields = dict(fields)
    options = fields.pop("enum_options", ())
    field = actions.state.new(CUSTOM_FIELD, {"created_by": actions.state.user} | fields)
    for option in options:
        actions.state.new(ENUM_OPTION, option, owner=field)
    return field


def settings_of(thing: AsanaObject) -> list[AsanaObject]:
    """Return the settings of custom fields on a project, in order, of fields that are there."""
    settings = thing.parts_of("custom_field_setting")
    return [each for each in settings if each.fields["custom_field"].alive]


def add_setting(
    actions: UserActions,
    thing: AsanaObject,
    field: AsanaObject,
    *,
    is_important: bool = False,
    place: int | None = None,
) -> AsanaObject:
    """Return the setting of a custom field on a project or portfolio, where it may be already."""
    for each in settings_of(thing):
        if each.fields["custom_field"] is field:
            return each
    fields = {
        "custom_field": field,
        "is_important": is_important,
        "parent": thing,
        "project": thing,
    }
    setting = actions.state.new(SETTING, fields)
    actions.state.own(setting, thing, place=place)
    _tell(actions, thing, "added", setting)
    return setting


def remove_setting(actions: UserActions, thing: AsanaObject, field: AsanaObject) -> None:
    """Take a custom field from a project or a portfolio, if it is there."""
    for each in settings_of(thing):
        if each.fields["custom_field"] is field:
            each.deleted = True
            _tell(actions, thing, "removed", each)


def _tell(actions: UserActions, thing: AsanaObject, action: str, setting: AsanaObject) -> None:
    change = {
        "field": "custom_field_settings",
        "action": action,
        f"{action}_value": setting.reference,
    }
    actions.touch(thing)
    actions.publish(actions.event("changed", thing, change=change))


# Values


def _fields_of(task: AsanaObject) -> list[AsanaObject]:
    """Return the custom fields that a task has: those of the projects that it is in."""
    projects = [each["project"] for each in task.fields["memberships"]]
    found = (each.fields["custom_field"] for one in projects for each in settings_of(one))
    return list(dict.fromkeys(found))


def _value(task: AsanaObject, field: AsanaObject) -> Any:
    values: dict[str, Any] = task.hidden.get("custom_values", {})
    return values.get(field.gid, [] if _type(field) in LISTS else None)


def values_of(task: AsanaObject) -> list[dict[str, Any]]:
    """Return the custom fields of a task as records, each with the task's value."""
    return [_with_value(field, _value(task, field)) for field in _fields_of(task)]


def _with_value(field: AsanaObject, value: Any) -> dict[str, Any]:
    shown = {name: field.value(name) for name in CUSTOM_FIELD.names if field.has(name)}
    return shown | {VALUES[_type(field)]: value, "display_value": _display(value)}


def _display(value: Any) -> str | None:
    """Return a value as people read it, None when there is none."""
    if isinstance(value, list):
        return ", ".join(each.name for each in value) or None
    if isinstance(value, AsanaObject):
        return value.name
    if isinstance(value, Mapping):
        return str(value.get("date_time", value["date"]))
    return None if value is None else str(value)


def checked_values(
    state: State, given: Mapping[str, Any], known: Iterable[AsanaObject]
) -> dict[AsanaObject, Any]:
    """Return the values that a call gives by custom field, of those that are known here.

    Raises Refused when it gives another field, or a value of another type.
    """
    if not isinstance(given, Mapping):
        raise Refused(400, "custom_fields: Value is not an object")
    fields = {field.gid: field for field in known}
    for gid in given:
        if gid not in fields:
            raise Refused(400, f"Custom field with ID {gid} is not on given object")
    return {fields[gid]: _checked(state, fields[gid], value) for gid, value in given.items()}


def _checked(state: State, field: AsanaObject, value: Any) -> Any:
    if value is None or value == "":
        return [] if _type(field) in LISTS else None
    return CHECKS[_type(field)](state, field, value)


def _option(state: State, field: AsanaObject, value: Any) -> AsanaObject:
    known = (each for each in _options(field) if each.gid == value and each.fields["enabled"])
    option = next(known, None)
    if option is None:
        raise Refused(400, f"custom_fields: Not an enabled option of {field.gid}: {value}")
    return option


def _some_options(state: State, field: AsanaObject, value: Any) -> list[AsanaObject]:
    if not isinstance(value, list):
        raise Refused(400, f"custom_fields: Value of {field.gid} is not an array")
    return list(dict.fromkeys(_option(state, field, each) for each in value))


def _date(state: State, field: AsanaObject, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not (value.get("date") or value.get("date_time")):
        raise Refused(400, f"custom_fields: Value of {field.gid} has no date")
    if value.get("date_time"):
        at = moment("custom_fields", text(state, "custom_fields", value["date_time"]))
        return {"date": at[:10], "date_time": at}
    return {"date": day(state, "custom_fields", value["date"])}


CHECKS: Mapping[str, Callable[[State, AsanaObject, Any], Any]] = {
    "text": lambda state, _, value: text(state, "custom_fields", value),
    "number": lambda state, _, value: number(state, "custom_fields", value),
    "people": lambda state, _, value: users_of(state, {"custom_fields": value}, "custom_fields"),
    "enum": _option,
    "multi_enum": _some_options,
    "date": _date,
}
"""How the values of each type are checked."""


def known_to(task: AsanaObject | None, projects: Iterable[AsanaObject] = ()) -> list[AsanaObject]:
    """Return the custom fields that a task has, also as one that is put into these projects."""
    found = _fields_of(task) if task else []
    found += [each.fields["custom_field"] for one in projects for each in settings_of(one)]
    return list(dict.fromkeys(found))


def keep_values(task: AsanaObject, values: Mapping[AsanaObject, Any]) -> None:
    """Give a task these values of custom fields without a word."""
    kept = task.hidden.setdefault("custom_values", {})
    kept |= {field.gid: value for field, value in values.items()}


def change_values(
    actions: UserActions, task: AsanaObject, values: Mapping[AsanaObject, Any]
) -> None:
    """Give a task these values of custom fields; each that differs is an event and a story."""
    found: list[PublishedEvent] = []
    for field, value in values.items():
        old = _value(task, field)
        if old == value:
            continue
        keep_values(task, {field: value})
        found.append(actions.event("changed", task, change=_change(field, value)))
        found += actions.story(task, _story(field, old, value))
    if found:
        actions.touch(task)
        actions.publish(*found)


def _change(field: AsanaObject, value: Any) -> dict[str, Any]:
    said = field.reference
    if _type(field) == "enum":
        said |= {"enum_value": value and value.reference}
    return {"field": "custom_fields", "action": "changed", "new_value": said}


def _story(field: AsanaObject, old: Any, new: Any) -> dict[str, Any]:
    name, shown = VALUES[_type(field)], _display(new)
    values = {f"old_{name}": _said(old), f"new_{name}": _said(new)}
    return {
        "resource_subtype": f"{_type(field)}_custom_field_changed",
        "text": f'changed {field.name} to "{shown}"' if shown else f"cleared {field.name}",
        "custom_field": field,
        **{name: each for name, each in values.items() if each is not None},
    }


def _said(value: Any) -> Any:
    """Return a value as a story has it: a date is said to be due."""
    if not isinstance(value, Mapping):
        return value
    return {"due_on": value["date"], "due_at": value.get("date_time")}


# Calls


async def create(call: ApiCall) -> web.Response:
    """Create a custom field in the workspace."""
    call.linked("workspace")
    call.text("name")
    given = call.given.get("resource_subtype", call.given.get("type"))
    fields = call.fields(CUSTOM_FIELD)
    fields["resource_subtype"] = one_of(*TYPES)(call.state, "resource_subtype", given)
    fields["enum_options"] = _given_options(call)
    return call.one(add_field(call.actions, fields), status=201)


def _given_options(call: ApiCall) -> list[dict[str, Any]]:
    given = call.given.get("enum_options") or []
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise Refused(400, "enum_options: Value is not an array of objects")
    for each in given:
        required_text(each, "name")
    return [
        {
            name: each.write(call.state, name, option[name])
            for name, each in ENUM_OPTION.fields.items()
            if each.write and name in option
        }
        for option in given
    ]


async def create_option(call: ApiCall) -> web.Response:
    """Create an option of a custom field, at a place among the others if one is named."""
    field = call.thing
    call.text("name")
    place = place_beside(call.state, call.given, field.parts, "enum_option")
    option = call.state.new(ENUM_OPTION, call.fields(ENUM_OPTION))
    call.state.own(option, field, place=place)
    return call.one(option, status=201)


async def move_option(call: ApiCall) -> web.Response:
    """Put an option before or after another one of its custom field."""
    field, option = call.thing, call.linked("enum_option")
    names = ("before_enum_option", "after_enum_option")
    place = place_beside(call.state, call.given, field.parts, "enum_option", *names)
    if place is None:
        raise Refused(400, "before_enum_option: Missing input")
    place -= field.parts.index(option) < place
    call.state.own(option, field, place=place)
    return call.one(option)


async def add_to(call: ApiCall) -> web.Response:
    """Have a custom field on a project or a portfolio, and show the setting."""
    thing, field = call.thing, call.linked("custom_field")
    place = place_beside(call.state, call.given, thing.parts, "custom_field_setting")
    important = call.fields(SETTING).get("is_important", False)
    setting = add_setting(call.actions, thing, field, is_important=important, place=place)
    return call.one(setting)


async def remove_from(call: ApiCall) -> web.Response:
    """Take a custom field from a project or a portfolio."""
    remove_setting(call.actions, call.thing, call.linked("custom_field"))
    return call.done()


def of_workspace(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the custom fields of the workspace."""
    assert call.thing is not None  # noqa: S101 - it is looked up, and refused when there is none
    return call.state.all("custom_field")


def of_thing(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the settings of custom fields on what the path names."""
    return settings_of(call.thing)


KINDS = (CUSTOM_FIELD, ENUM_OPTION, SETTING)
BESIDE = ("insert_before", "insert_after")
NEW = (*CUSTOM_FIELD.writable, "enum_options", "resource_subtype", "type", "workspace")
OPERATIONS = {
    "createCustomField": Operation(create, NEW, CUSTOM_FIELD),
    "getCustomField": shows(CUSTOM_FIELD),
    "updateCustomField": changes(CUSTOM_FIELD),
    "deleteCustomField": deletes(),
    "getCustomFieldsForWorkspace": lists(CUSTOM_FIELD, of_workspace),
    "createEnumOptionForCustomField": Operation(
        create_option, (*ENUM_OPTION.writable, *BESIDE), ENUM_OPTION
    ),
    "insertEnumOptionForCustomField": Operation(
        move_option, ["enum_option", "before_enum_option", "after_enum_option"], ENUM_OPTION
    ),
    "updateEnumOption": changes(ENUM_OPTION),
    **{
        f"getCustomFieldSettingsFor{name}": lists(SETTING, of_thing)
        for name in ("Project", "Portfolio", "Team")
    },
    **{
        f"addCustomFieldSettingFor{name}": Operation(
            add_to, ["custom_field", "is_important", *BESIDE], SETTING
        )
        for name in ("Project", "Portfolio")
    },
    **{
        f"removeCustomFieldSettingFor{name}": Operation(remove_from, ["custom_field"])
        for name in ("Project", "Portfolio")
    },
}
