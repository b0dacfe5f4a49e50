"""Filters of webhooks as one writes them in a shell, and back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import click

from ..models import WebhookFilter

__all__ = ["filter_text", "filters_text", "parse_filter"]

_FILTER = re.compile(
    r"(?P<resource_type>\*|[a-z_]+)"
    r"(?:/(?P<resource_subtype>[a-z_]+))?"
    r"(?:\.(?P<action>[a-z]+))?"
    r"(?::(?P<fields>[a-z0-9_.]+(?:,[a-z0-9_.]+)*))?"
)


def parse_filter(text: str) -> WebhookFilter:
    """Return the filter that a text stands for, and print what looks misspelt in it.

    Raises ValueError, with the rule, for others.
    """
    from .._establish import check_given_filters

    found = _FILTER.fullmatch(text)
    if found is None:
        msg = f"{text!r} is no filter; write TYPE[/SUBTYPE][.ACTION][:FIELD,FIELD...]"
        raise ValueError(msg)
    parts = found.groupdict()
    fields = parts["fields"]
    made = WebhookFilter(
        resource_type=None if parts["resource_type"] == "*" else parts["resource_type"],
        resource_subtype=parts["resource_subtype"],
        action=parts["action"],
        fields=None if fields is None else fields.split(","),
    )
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        check_given_filters([made])
    for doubt in doubts:
        click.echo(f"warning: {doubt.message}", err=True)
    return made


def filter_text(item: WebhookFilter) -> str:
    """Return the text that stands for a filter."""
    subtype = f"/{item.resource_subtype}" if item.resource_subtype else ""
    action = f".{item.action}" if item.action else ""
    fields = f":{','.join(item.fields)}" if item.fields else ""
    return f"{item.resource_type or '*'}{subtype}{action}{fields}"


def filters_text(filters: Sequence[WebhookFilter] | None) -> str:
    """Return what a webhook with these filters delivers, on one line."""
    return " ".join(map(filter_text, filters or ())) or "every event"
