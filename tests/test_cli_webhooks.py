"""Webhooks as commands show them."""

from __future__ import annotations

import pytest

from asana_webhooks import Webhook
from asana_webhooks.cli.webhooks import print_webhook, shortened


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("https://h.example/a/" + "r" * 32, "https://h.example/a/rrrr...", id="route"),
        pytest.param(
            "https://h.example/a/" + "r" * 32 + "/", "https://h.example/a/rrrr...", id="/"
        ),
        pytest.param("https://h.example/in", "https://h.example/in", id="short"),
        pytest.param("https://h.example", "https://h.example", id="host"),
        pytest.param("https://h.example/a?key=1", "https://h.example/a?...", id="query"),
        pytest.param("https://me:pw@h.example:8/a", "https://h.example:8/a", id="password"),
    ],
)
def test_target_is_shown_without_what_makes_it_secret(
    target: str | None, shown: str | None
) -> None:
    assert shortened(target) == shown


def test_webhook_of_which_little_is_known_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_webhook(Webhook(gid="7", secret="hush"), held=False, as_json=False)
    printed = capsys.readouterr().out
    fields = {
        name: value.strip() for name, _, value in (x.partition(":") for x in printed.splitlines())
    }
    assert (fields["resource"], fields["active"], fields["target"]) == ("-", "-", "-")
    assert "hush" not in printed
