"""The command line with a configuration directory of its own, and a browser of sorts."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner, Result

from asana_webhooks.auth import AsanaOAuth, Token, TokenFile
from asana_webhooks.cli.app import cli
from support.plain_http import NO_TLS
from support.simulated import Simulated, simulated

BACK = "http://127.0.0.1:0/callback"


SECRET = "the-secret-of-the-app"


Open = Callable[[str], bool]


@pytest.fixture(scope="module")
def asana() -> Iterator[Simulated]:
    with simulated("--quiet") as asana:
        yield asana


class Shell:
    """The command line with a configuration directory of its own."""

    def __init__(self, config: Path, base_url: str) -> None:
        self.config = config
        self.base_url = base_url
        self.variables = {
            "XDG_CONFIG_HOME": str(config),
            "ASANA_BASE_URL": base_url,
            "ASANA_CLIENT_ID": "1204619",
            "ASANA_CLIENT_SECRET": SECRET,
        }

    @property
    def file(self) -> Path:
        url = urlsplit(self.base_url)
        return self.config / "asana-webhooks" / f"127.0.0.1-{url.port}.json"

    def run(self, *arguments: str, **variables: str | None) -> Result:
        return CliRunner().invoke(cli, arguments, env=self.variables | variables)

    def login(self, *options: str, **variables: str | None) -> Result:
        return self.run("login", "--redirect-uri", BACK, *options, **variables)

    def token(self) -> Token:
        token = TokenFile(self.file).load()
        assert token is not None
        return token


@pytest.fixture
def shell(asana: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(webbrowser, "open", browse)
    shell = Shell(tmp_path / "config", asana.base_url)
    for name, value in shell.variables.items():
        monkeypatch.setenv(name, value)
    return shell


def browse(url: str) -> bool:
    return httpx.get(url, follow_redirects=True, trust_env=False).is_success


def consent(url: str) -> str:
    """Return where Asana sends a user who agrees."""
    return httpx.get(url, trust_env=False).headers["Location"]


async def who(oauth: AsanaOAuth, base_url: str) -> str:
    """Return the name of the user as whom calls are made."""
    async with httpx.AsyncClient(
        verify=NO_TLS, base_url=base_url, auth=oauth, trust_env=False
    ) as api:
        name: str = (await api.get("/users/me")).json()["data"]["name"]
        return name
