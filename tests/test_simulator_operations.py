"""The operations that the local Asana knows of, held against Asana's description."""

from typing import Any

import pytest
from support import simulator_page
from support.asana_openapi import CALLS, COMPONENTS, DESCRIPTION

from asana_webhooks.simulator.app import OPERATIONS
from asana_webhooks.simulator.operations import DESCRIBED, OLD_PATHS

UNDESCRIBED = {
    ("getTasks", "tag"): "named in the message of the refusal that lists what may be asked for",
    ("createPortfolio", "privacy_setting"): "described of the record, as public is",
    ("updatePortfolio", "privacy_setting"): "likewise",
    ("updatePortfolio", "public"): "described of the record, and of createPortfolio",
}
"""Inputs that are taken and stand in no description of the operation, with the reasons."""


def properties(schema: dict[str, Any]) -> set[str]:
    """Return the names of the properties of a schema and of its parts."""
    if "$ref" in schema:
        return properties(COMPONENTS["schemas"][schema["$ref"].rpartition("/")[2]])
    parts = [part for word in ("allOf", "anyOf", "oneOf") for part in schema.get(word, [])]
    return {*schema.get("properties", {}), *(name for each in parts for name in properties(each))}


def inputs_of(operation: dict[str, Any]) -> set[str]:
    """Return the names of what a call may give."""
    body = operation.get("requestBody", {"content": {}})["content"].values()
    schemas = [each["schema"].get("properties", {}).get("data", each["schema"]) for each in body]
    found = {name for schema in schemas for name in properties(schema)}
    return {*operation.get("query", []), *found}


def test_operations_are_those_of_the_description() -> None:
    assert {
        (each.group, each.name, each.method.lower(), each.path, each.scope)
        for each in DESCRIBED.values()
    } == {
        (each["tag"], each["operationId"], method, path, each.get("scope", ""))
        for path, operations in DESCRIPTION["paths"].items()
        for method, each in operations.items()
    }


def test_what_is_served_is_described() -> None:
    assert set(OPERATIONS) <= set(DESCRIBED)
    assert set(OLD_PATHS.values()) <= set(DESCRIBED)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_an_operation_takes_is_described(name: str) -> None:
    described = next(each for *_, each in CALLS if each["operationId"] == name)
    undescribed = set(OPERATIONS[name].takes) - inputs_of(described)
    assert {(name, each) for each in undescribed} <= UNDESCRIBED.keys()


def test_page_tells_what_is_served() -> None:
    page = simulator_page.PAGE.read_text()
    assert page == simulator_page.with_tables(page), "run python tests/support/simulator_page.py"
