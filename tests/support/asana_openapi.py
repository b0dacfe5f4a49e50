"""Asana's OpenAPI description, strictly: it finds the schema of an answer and validates it.

``asana_openapi.json`` is the whole description without its prose and examples: of each operation
the names of the fields that ``opt_fields`` may name, and of its parameters, stand in it instead.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema

DESCRIPTION = json.loads(Path(__file__).with_name("asana_openapi.json").read_text())
COMPONENTS = DESCRIPTION["components"]
ERROR: dict[str, Any] = {"$ref": "#/components/schemas/ErrorResponse"}

FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date-time")  # type: ignore[untyped-decorator] # jsonschema has no types
def _is_instant(value: object) -> bool:
    return value is None or bool(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(value))
    )


@FORMATS.checks("date")  # type: ignore[untyped-decorator] # likewise
def _is_day(value: object) -> bool:
    return value is None or bool(re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)))


@FORMATS.checks("uri")  # type: ignore[untyped-decorator] # likewise
def _is_uri(value: object) -> bool:
    return value is None or bool(re.fullmatch(r"https?://\S+", str(value)))


NULL_DATES = (
    "last_failure_at",
    "last_success_at",
    "next_attempt_after",
    "failure_deletion_timestamp",
)

# Where real traffic says something else than the description, the local Asana follows the traffic.
# Each difference: the schema, its property, what is allowed there besides, and why.
DIFFERENCES: list[tuple[str, str, dict[str, Any], str]] = [
    *(
        ("WebhookResponse", name, {"type": "null"}, "recorded 201s have null for what never was")
        for name in NULL_DATES
    ),
    *(
        ("WebhookFilter", name, {"type": "null"}, "filters are echoed with explicit nulls")
        for name in ("resource_type", "resource_subtype", "action", "fields")
    ),
    (
        "WebhookResponse",
        "is_workspace_webhook",
        {"type": "boolean"},
        "recorded since 2024, and not described",
    ),
    (
        "WorkspaceResponse",
        "email_domains",
        {"type": "array", "items": {"type": "string"}},
        "domains, which the description calls URIs",
    ),
    (
        "TaskCompact",
        "created_by",
        {"$ref": "#/components/schemas/UserCompact"},
        "its name may be asked for, says the same description of opt_fields",
    ),
    ("TaskBase", "external", {"type": "null"}, "tasks with which no app keeps anything have none"),
    ("ProjectResponse", "team", {"type": "null"}, "projects outside of teams have none"),
    ("EventResponse", "user", {"type": "null"}, "described in words: events of the system"),
    ("EventResponse", "parent", {"type": "null"}, "described in words: unless added or removed"),
    *(
        ("StoryResponse", name, {"type": "number"}, "values of number fields have decimals")
        for name in ("old_number_value", "new_number_value")
    ),
    (
        "CustomFieldCompact",
        "resource_subtype",
        {"type": "string"},
        "recorded on custom fields in events; the whole record has it",
    ),
    (
        "AsanaNamedResource",
        "resource_subtype",
        {"type": "string"},
        "recorded on tasks and stories in events",
    ),
    *(
        ("AsanaNamedResource", name, {"type": kind}, "compact stories have a text and no name")
        for name, kind in (("text", "string"), ("created_at", "string"), ("created_by", "object"))
    ),
]

# Statuses that the description does not name for these calls, but Asana's guides do.
UNDESCRIBED_STATUSES = {
    402: "https://developers.asana.com/docs/errors: the workspace would have to pay",
    429: "https://developers.asana.com/docs/rate-limits",
    501: "the local Asana's own: it does not serve the operation, or not all of it",
}


def _with_differences() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads(json.dumps(COMPONENTS["schemas"]))
    for schema, name, allowed, _ in DIFFERENCES:
        holder = schemas[schema]
        for part in holder.get("allOf", []):
            holder = part if "properties" in part else holder
        properties = holder["properties"]
        described = properties.get(name)
        properties[name] = {"anyOf": [described, allowed]} if described else allowed
    return schemas


WHOLE = {
    "ProjectMembershipCompact": "ProjectMembershipNormalResponse",
    "TimeTrackingEntryCompact": "TimeTrackingEntryBase",
    **{
        name: name.replace("Compact", "Response")
        for name in COMPONENTS["schemas"]
        if "$ref"
        not in COMPONENTS["schemas"].get(name.replace("Compact", "Response"), {"$ref": ""})
    },
}
"""The schemas of whole records by those of compact ones."""


def _strict(schema: dict[str, Any], *, part: bool = False, deep: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of an OpenAPI schema; in objects, only what is described is allowed.

    A ``part`` of an ``allOf`` does not know the properties of the other parts. A ``deep`` one takes
    whole records for compact ones, of which a call may name any field.
    """
    if "$ref" in schema:
        *_, kind, name = schema["$ref"].split("/")
        if kind == "responses":
            return _strict(COMPONENTS[kind][name], deep=deep)
        name = WHOLE.get(name, name) if deep and not part else name
        return {"$ref": f"#/$defs/{_key(name, part=part, deep=deep)}"}
    members = schema.get("allOf", [])
    nullable = any(each.get("nullable") for each in (schema, *members))
    linked = [each for each in members if "$ref" in each]
    if len(linked) == 1 and not any("properties" in each for each in members):
        found = _strict(linked[0], part=part, deep=deep)  # the rest is how to call it here
    else:
        found = _object(schema, part=part, deep=deep)
    return {"anyOf": [found, {"type": "null"}]} if nullable else found


def _object(schema: dict[str, Any], *, part: bool, deep: bool) -> dict[str, Any]:
    dropped = ("nullable", "required")  # what is required is so in requests
    schema = {key: value for key, value in schema.items() if key not in dropped}
    for keyword in ("allOf", "anyOf", "oneOf"):
        if keyword in schema:
            inner = keyword == "allOf"
            members = [
                {key: each[key] for key in each if key != "nullable"} for each in schema[keyword]
            ]
            schema[keyword] = [_strict(each, part=inner, deep=deep) for each in members]
    if "properties" in schema:
        properties = schema["properties"].items()
        schema["properties"] = {name: _strict(each, deep=deep) for name, each in properties}
    if "items" in schema:
        schema["items"] = _strict(schema["items"], deep=deep)
    named = schema.get("type") == "object" and schema != {"type": "object"}
    if not part and (named or "allOf" in schema):
        schema["unevaluatedProperties"] = False
    return schema


def _key(name: str, *, part: bool, deep: bool) -> str:
    return f"{name}{'.part' if part else ''}{'.deep' if deep else ''}"


DEFINITIONS = {
    _key(name, part=part, deep=deep): _strict(schema, part=part, deep=deep)
    for name, schema in _with_differences().items()
    for part in (False, True)
    for deep in (False, True)
}
DEFINITIONS |= {
    name: {"type": "object", "maxProperties": 0}
    for name in DEFINITIONS
    if name.startswith("EmptyResponse")
}
CALLS = [
    (method, re.compile(re.sub(r"{\w+}", "[^/]+", path)), operation)
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
]
CALLS.sort(key=lambda call: call[1].pattern.count("[^/]+"))  # /tasks/search before /tasks/{gid}


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """Return what is described of a call, None when the description does not know it."""
    known = (each for each in CALLS if each[0] == method.lower() and each[1].fullmatch(path))
    return next((operation for *_, operation in known), None)


@cache
def _validator(operation: str, status: int, *, deep: bool) -> jsonschema.Draft202012Validator:
    if status in UNDESCRIBED_STATUSES:
        schema = ERROR
    else:
        found = next(each for *_, each in CALLS if each["operationId"] == operation)
        described = found["responses"][str(status)]
        if "$ref" in described:
            described = COMPONENTS["responses"][described["$ref"].rpartition("/")[2]]
        schema = described["content"]["application/json"]["schema"]
    return jsonschema.Draft202012Validator(
        {**_strict(schema, deep=deep), "$defs": DEFINITIONS}, format_checker=FORMATS
    )


def validate(response: httpx.Response) -> bool:
    """Return whether the description is about this answer; raise ValidationError if it is wrong."""
    path = response.request.url.path.removeprefix("/api/1.0").rstrip("/")
    operation = operation_of(response.request.method, path)
    if operation is None:
        return False
    deep = "opt_fields" in response.request.url.params
    validator = _validator(operation["operationId"], response.status_code, deep=deep)
    validator.validate(response.json())
    return True
