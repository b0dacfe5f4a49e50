"""``asana-webhooks logout``: the end of a login."""

from __future__ import annotations

import asyncio

import pytest
from support.login_shell import SECRET, Shell, asana, shell, who

from asana_webhooks import LoginRequiredError
from asana_webhooks.auth import AsanaOAuth

__all__ = ["asana", "shell"]


async def test_logout_ends_the_access_and_deletes_the_file(shell: Shell) -> None:
    await asyncio.to_thread(shell.login)
    kept = shell.token()
    result = await asyncio.to_thread(shell.run, "logout")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "logged out\n", "")
    assert not shell.file.exists()
    oauth = AsanaOAuth("1204619", SECRET, token=kept, base_url=shell.base_url)
    with pytest.raises(LoginRequiredError):
        await who(oauth, shell.base_url)


def test_logout_of_nobody_is_no_failure(shell: Shell) -> None:
    result = shell.run("logout")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nobody is logged in\n"


def test_token_stays_when_it_could_not_be_revoked(shell: Shell) -> None:
    shell.login()
    result = shell.run("logout", ASANA_CLIENT_SECRET=None)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "invalid_client" in result.stderr
    assert shell.file.exists()
