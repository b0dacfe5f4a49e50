"""Filters as one writes them in a shell."""

from __future__ import annotations

import pytest
from support.cli_shell import Shell, shell

from asana_webhooks import WebhookFilter
from asana_webhooks.cli.filters import filter_text, filters_text, parse_filter

__all__ = ["shell"]

FILTERS = [
    ("task", WebhookFilter(resource_type="task")),
    ("story.added", WebhookFilter(resource_type="story", action="added")),
    (
        "task/milestone.changed",
        WebhookFilter(resource_type="task", resource_subtype="milestone", action="changed"),
    ),
    (
        "task.changed:completed,due_on",
        WebhookFilter(resource_type="task", action="changed", fields=["completed", "due_on"]),
    ),
    ("*.deleted", WebhookFilter(action="deleted")),
    ("*", WebhookFilter()),
]


@pytest.mark.parametrize(("text", "item"), FILTERS, ids=[text for text, _ in FILTERS])
def test_text_stands_for_a_filter_and_the_filter_for_the_text(
    text: str, item: WebhookFilter
) -> None:
    assert parse_filter(text) == item
    assert filter_text(item) == text


def test_filter_with_a_misspelt_word_is_taken_and_said(shell: Shell) -> None:
    receiving = (shell.asana.project, "--port", str(shell.port))
    for call in ("establish", "ensure", "update"):
        arguments = receiving if call != "update" else (next(iter(shell.asana.webhooks)),)
        result = shell.run(call, *arguments, "--filter", "taks.changed:complete")
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("Asana has no resource type 'taks'; did you mean 'task'?") == 1


def test_filters_are_one_line_and_none_is_every_event() -> None:
    assert filters_text([item for _, item in FILTERS[:2]]) == "task story.added"
    assert filters_text(None) == filters_text(()) == "every event"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param("", "write TYPE[/SUBTYPE][.ACTION]", id="empty"),
        pytest.param("task.", "write TYPE[/SUBTYPE][.ACTION]", id="no action"),
        pytest.param("task.changed:", "write TYPE[/SUBTYPE][.ACTION]", id="no fields"),
        pytest.param("task changed", "write TYPE[/SUBTYPE][.ACTION]", id="blank"),
        pytest.param("task.finished", "a filter's action is one of added", id="unknown action"),
        pytest.param("task:completed", "go with the action 'changed' only", id="fields alone"),
        pytest.param("task.added:name", "go with the action 'changed' only", id="added fields"),
    ],
)
def test_filter_that_is_none_is_a_wrong_call_with_the_rule(
    shell: Shell, text: str, rule: str
) -> None:
    assert rule in shell.failure("establish", "12", "--filter", text, status=2)
    assert not shell.asana.webhooks
