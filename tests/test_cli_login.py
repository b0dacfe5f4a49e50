"""``asana-webhooks login``: OAuth at the local Asana, with a browser of sorts."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import webbrowser
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import click
import pytest
from click.testing import CliRunner
from support.login_shell import SECRET, Shell, asana, browse, consent, shell, who

from asana_webhooks import Resource
from asana_webhooks.auth import AsanaOAuth, Token, TokenFile
from asana_webhooks.cli import login
from asana_webhooks.cli.access import default_login_file, token_of_login
from asana_webhooks.cli.app import cli

__all__ = ["asana", "shell"]

ASANA = "https://app.asana.com/api/1.0"
BROWSER = """\
    #!{python}
    import sys, httpx
    httpx.get(sys.argv[1], follow_redirects=True, trust_env=False).raise_for_status()
"""


# Log in


def test_user_logs_in_with_a_browser(shell: Shell) -> None:
    result = shell.login()
    assert result.exit_code == 0, result.output
    assert result.stdout == "logged in as Robin Example (1201)\n"
    assert f"the token is in {shell.file}\n" in result.stderr
    token = shell.token()
    for hidden in (token.access_token, str(token.refresh_token), SECRET):
        assert hidden not in result.output
    assert stat.S_IMODE(shell.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(shell.file.parent.stat().st_mode) == 0o700


async def test_program_uses_the_file(shell: Shell) -> None:
    assert (await asyncio.to_thread(shell.login)).exit_code == 0
    oauth = AsanaOAuth("1204619", SECRET, token=TokenFile(shell.file), base_url=shell.base_url)
    assert await who(oauth, shell.base_url) == "Robin Example"


def test_login_asks_for_the_scopes_that_are_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_and_keep(url: str) -> bool:
        opened.append(url)
        return browse(url)

    monkeypatch.setattr(webbrowser, "open", open_and_keep)
    result = shell.login("--scope", "webhooks:read", "--scope", "webhooks:write")
    assert result.exit_code == 0, result.output
    assert parse_qs(urlsplit(opened[0]).query)["scope"] == ["webhooks:read webhooks:write"]
    assert f"open this URL:\n{opened[0]}\n" in result.stderr


def test_browser_that_returns_only_when_it_is_closed_is_not_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()
    monkeypatch.setattr(webbrowser, "open", lambda url: browse(url) and closed.wait(30))
    assert shell.login().exit_code == 0
    closed.set()


def test_second_login_replaces_the_first(shell: Shell) -> None:
    shell.login()
    first = shell.token()
    assert shell.login().exit_code == 0
    assert shell.token().access_token != first.access_token
    assert len([*shell.file.parent.glob("*.json")]) == 1


@pytest.mark.parametrize("how", ["option", "variable"])
def test_login_file_is_where_it_is_told(shell: Shell, tmp_path: Path, how: str) -> None:
    path = tmp_path / "mine" / "token.json"
    if how == "option":
        result = shell.login("--login-file", str(path))
    else:
        result = shell.login(ASANA_WEBHOOKS_LOGIN_FILE=str(path))
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text())["user"]["gid"] == "1201"
    assert not shell.file.exists()


def refuse(url: str) -> bool:
    query = parse_qs(urlsplit(url).query)
    back = {"error": "access_denied", "state": query["state"][0]}
    return browse(f"{query['redirect_uri'][0]}?{urlencode(back)}")


def test_user_who_refuses_is_not_logged_in(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", refuse)
    result = shell.login()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the login was refused: access_denied" in result.stderr
    assert not shell.file.exists()


@pytest.mark.parametrize(
    ("options", "variables", "status", "said"),
    [
        pytest.param([], {"ASANA_CLIENT_ID": None}, 2, "ASANA_CLIENT_ID", id="no id"),
        pytest.param([], {"ASANA_CLIENT_SECRET": None}, 1, "invalid_client", id="no secret"),
        pytest.param(["--scope", "all"], {}, 1, "invalid_scope", id="scope"),
        pytest.param(["--base-url", "asana"], {}, 1, "base_url must be http://", id="base URL"),
        pytest.param(
            ["--redirect-uri", "https://h.example"], {}, 1, "redirect_uri must be", id="redirect"
        ),
    ],
)
def test_login_that_cannot_work_is_one_error(
    shell: Shell,
    options: list[str],
    variables: dict[str, str | None],
    status: int,
    said: str,
) -> None:
    result = shell.login(*options, **variables)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert SECRET not in result.output
    assert not shell.file.exists()


def test_no_option_takes_a_secret(shell: Shell) -> None:
    assert shell.login("--client-secret", SECRET).exit_code == 2
    assert "secret TEXT" not in shell.run("login", "--help").output


# Without a browser here


@pytest.mark.parametrize("what", ["address", "code"])
def test_user_pastes_what_a_browser_elsewhere_shows(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    printed: list[str] = []

    def paste(text: str, *, err: bool) -> str:
        assert err
        address = consent(printed[-1])
        return address if what == "address" else parse_qs(urlsplit(address).query)["code"][0]

    echo = click.echo

    def keep(text: str, *, err: bool = False) -> None:
        printed.append(text.splitlines()[-1])
        echo(text, err=err)

    monkeypatch.setattr(click, "prompt", paste)
    monkeypatch.setattr(click, "echo", keep)
    result = shell.login("--no-browser")
    assert result.exit_code == 0, result.output
    assert result.stdout == "logged in as Robin Example (1201)\n"
    assert shell.token().user == Resource(gid="1201", resource_type=None, name="Robin Example")


def test_address_of_another_login_is_refused(shell: Shell) -> None:
    result = CliRunner().invoke(
        cli,
        ["login", "--no-browser"],
        env=shell.variables,
        input="http://127.0.0.1:8765/callback?code=1&state=2\n",
    )
    assert (result.exit_code, result.stdout) == (1, "")
    assert "belongs to another login" in result.stderr
    assert not shell.file.exists()


# Names


@pytest.mark.parametrize(
    ("user", "said"),
    [
        pytest.param(None, "a user whose name Asana did not tell", id="nobody"),
        pytest.param(Resource(gid="7"), "a user without a name (7)", id="no name"),
        pytest.param(Resource(gid="7", name="\x1b[31mRo"), r"\x1b[31mRo (7)", id="escape"),
        pytest.param(Resource(gid="7", name="Zoë"), "Zoë (7)", id="letters"),
    ],
)
def test_name_is_printed_as_it_may_be(user: Resource | None, said: str) -> None:
    assert login._name(Token(access_token="t", user=user)) == said


@pytest.mark.parametrize(
    ("config", "base_url", "path"),
    [
        ("/c", "https://app.asana.com/api/1.0", "/c/asana-webhooks/app.asana.com.json"),
        ("/c", "http://127.0.0.1:8000/api/1.0", "/c/asana-webhooks/127.0.0.1-8000.json"),
        ("/c", "http://[::1]:8000", "/c/asana-webhooks/--1-8000.json"),
        ("", "https://a.b", "/home/me/.config/asana-webhooks/a.b.json"),
        ("not/absolute", "https://a.b", "/home/me/.config/asana-webhooks/a.b.json"),
    ],
)
def test_each_asana_has_a_file_of_its_own(
    config: str, base_url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CONFIG_HOME", config)
    assert default_login_file(base_url) == Path(path)


# For the other commands


async def test_login_authenticates_other_commands(shell: Shell) -> None:
    assert token_of_login(base_url=shell.base_url) is None
    await asyncio.to_thread(shell.login)
    oauth = token_of_login(base_url=shell.base_url)
    assert oauth is not None
    assert await who(oauth, shell.base_url) == "Robin Example"


def test_login_at_one_asana_is_none_at_another(shell: Shell) -> None:
    shell.login()
    assert token_of_login(base_url=ASANA) is None
    assert token_of_login(base_url=ASANA, login_file=shell.file) is not None


def test_login_without_the_apps_id_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.login()
    monkeypatch.delenv("ASANA_CLIENT_ID")
    with pytest.raises(click.UsageError, match="needs the app's id: set ASANA_CLIENT_ID"):
        token_of_login(base_url=shell.base_url)


# As users run it


def test_browser_of_the_environment_is_opened(shell: Shell, tmp_path: Path, free_port: int) -> None:
    browser = tmp_path / "browser"
    browser.write_text(textwrap.dedent(BROWSER).format(python=sys.executable))
    browser.chmod(0o700)
    back = f"http://localhost:{free_port}/back"
    ended = start(shell, "--redirect-uri", back, BROWSER=str(browser))
    out, err = ended.communicate(timeout=30)
    assert (ended.returncode, out) == (0, "logged in as Robin Example (1201)\n"), err
    assert shell.token().user is not None


def test_terminal_without_a_browser_takes_the_address(shell: Shell) -> None:
    process = start(shell, "--no-browser")
    assert process.stderr is not None
    assert process.stderr.readline() == "Open this URL in a browser:\n"
    out, err = process.communicate(f"{consent(process.stderr.readline().strip())}\n", timeout=30)
    assert (process.returncode, out) == (0, "logged in as Robin Example (1201)\n"), err


def start(shell: Shell, *options: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asana_webhooks", "login", *options],
        env={**os.environ, **shell.variables, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
