"""Asana's OpenAPI description, strictly: it finds the schema of an answer and validates it."""

import copy
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import yaml

DESCRIPTION = yaml.safe_load(Path(__file__).with_name("asana_openapi.yaml").read_text())
COMPONENTS = DESCRIPTION["components"]
ERROR: dict[str, Any] = {"$ref": "#/components/schemas/ErrorResponse"}

FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date-time")  # type: ignore[untyped-decorator] # jsonschema has no types
def _is_instant(value: object) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(value)))


@FORMATS.checks("uri")  # type: ignore[untyped-decorator] # likewise
def _is_uri(value: object) -> bool:
    return bool(re.fullmatch(r"https?://\S+", str(value)))


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
    ("EventResponse", "user", {"type": "null"}, "described in words: events of the system"),
    ("EventResponse", "parent", {"type": "null"}, "described in words: unless added or removed"),
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
}


def _with_differences() -> dict[str, Any]:
    schemas: dict[str, Any] = copy.deepcopy(COMPONENTS["schemas"])
    for schema, name, allowed, _ in DIFFERENCES:
        holder = schemas[schema]
        for part in holder.get("allOf", []):
            holder = part if "properties" in part else holder
        properties = holder["properties"]
        described = properties.get(name)
        properties[name] = {"anyOf": [described, allowed]} if described else allowed
    return schemas


SCHEMAS = _with_differences()


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    *_, kind, name = schema["$ref"].split("/")
    found: dict[str, Any] = SCHEMAS[name] if kind == "schemas" else COMPONENTS[kind][name]
    return found


def _strict(schema: dict[str, Any], *, part: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of an OpenAPI schema; in objects, only what is described is allowed.

    A ``part`` of an ``allOf`` does not know the properties of the other parts.
    """
    schema = dict(_resolved(schema))
    for keyword in ("allOf", "anyOf"):
        inner = keyword == "allOf"
        if keyword in schema:
            schema[keyword] = [_strict(each, part=inner) for each in schema[keyword]]
    if "properties" in schema:
        schema["properties"] = {n: _strict(each) for n, each in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _strict(schema["items"])
    if schema.get("nullable"):
        schema["type"] = [schema["type"], "null"]
    named = schema.get("type") == "object" and schema != {"type": "object"}
    if not part and (named or "allOf" in schema):
        schema["unevaluatedProperties"] = False
    return schema


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for template, operations in DESCRIPTION["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            found: dict[str, Any] | None = operations.get(method.lower())
            return found
    return None


def validate(response: httpx.Response) -> bool:
    """Return whether the description is about this answer; raise ValidationError if it is wrong."""
    path = response.request.url.path.removeprefix("/api/1.0")
    operation = _operation(response.request.method, path)
    if operation is None:
        return False
    if response.status_code in UNDESCRIBED_STATUSES:
        schema = ERROR
    else:
        described = _resolved(operation["responses"][response.status_code])
        schema = described["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(_strict(schema), format_checker=FORMATS)
    validator.validate(response.json())
    return True
