"""Access of commands to Asana."""

from __future__ import annotations

import pytest

from asana_webhooks import WebhooksApi
from asana_webhooks.cli.access import Access
from asana_webhooks.cli.app import cli


@pytest.mark.parametrize("value", [None, "", "http://localhost:9/api", "http://localhost:9/api/"])
def test_variable_of_the_base_url_counts_as_it_does_in_programs(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("ASANA_BASE_URL", raising=False)
    else:
        monkeypatch.setenv("ASANA_BASE_URL", value)
    monkeypatch.setenv("ASANA_ACCESS_TOKEN", "a-token")
    found: list[Access] = []

    def find(access: Access, *_: object) -> None:
        found.append(access)
        raise KeyboardInterrupt

    monkeypatch.setattr("asana_webhooks.cli.show._look", find)
    cli(["show", "1"], standalone_mode=False)
    assert found[0].api()._transport.base_url == WebhooksApi()._transport.base_url
