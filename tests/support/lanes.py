"""The ways through the stand-alone receiver: the lane, and aiohttp's general way."""

from __future__ import annotations

from typing import Any

import pytest

from asana_webhooks import _receiver_aiohttp as receiver_module

LANELESS = "TEST_WITHOUT_LANE"
"""The variable of the environment with which tests run without the lane."""


class _Laneless(receiver_module._Server):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "has_lane": False})


def close_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have receivers from now on send every request aiohttp's general way."""
    monkeypatch.setattr(receiver_module, "_Server", _Laneless)
