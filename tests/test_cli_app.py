"""The commands by name, their help, and what becomes of their errors."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from support.cli_process import run

from asana_webhooks import StoreError
from asana_webhooks.cli import main
from asana_webhooks.cli.app import COMMANDS, cli
from asana_webhooks.cli.demo import scenario


def calls(group: click.Group, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield how a group, each command that it lists, and each below one of these is called."""
    yield names
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from calls(command, *names, name)
            else:
                yield (*names, name)


HEAVY = {"aiohttp", "anyio", "asyncio", "httpx", "rich.console", "sqlite3"}


ASK_FOR_HELP = f"""
import sys
from asana_webhooks.cli import main
try: main()
finally: print({HEAVY} & set(sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", [pytest.param(call, id=" ".join(call) or "itself") for call in calls(cli)]
)
def test_help_loads_nothing_heavy(tmp_path: Path, call: tuple[str, ...]) -> None:
    ended = run("-c", ASK_FOR_HELP, *call, "--help", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: {' '.join(('asana-webhooks', *call))} ")
    assert ended.stdout.endswith("\nset()\n")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["click", "rich"])
def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path, library: str) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('not installed')")
    ended = run("-m", "asana_webhooks", "demo", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert 'pip install "asana-webhooks[cli]"' in ended.stderr


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="asana-webhooks")


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    ended = run("-m", "asana_webhooks", "--version", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"asana-webhooks \d+\.\d+\.\d+\n", ended.stdout)


def test_a_missing_library_is_named_instead_of_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(SystemExit, match=r"asana-webhooks\[cli\]"):
        main()


def test_help_lists_every_command_with_what_it_is_good_for() -> None:
    shown = " ".join(invoke("--help").stdout.split())
    assert [name for name, told in COMMANDS.items() if f"{name} {told}" not in shown] == []


def test_a_wrong_use_exits_with_2_and_names_the_help() -> None:
    result = invoke("dance")
    assert result.exit_code == 2
    assert "Try 'asana-webhooks --help'" in result.output


def raising(error: BaseException) -> Callable[[object], Any]:
    async def fail(reporter: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(StoreError("full; make\nroom"), "full; make room", id="of the package"),
        pytest.param(ValueError("no token"), "no token", id="in the configuration"),
        pytest.param(OSError("disk"), "disk; `asana-webhooks --debug ...` shows where", id="OS"),
        pytest.param(
            OSError(errno.EADDRINUSE, "taken"),
            "taken; end what listens there, or choose another port",
            id="port",
        ),
        pytest.param(
            FileNotFoundError(errno.ENOENT, "No such file", "/nowhere"),
            "/nowhere: No such file; check the path",
            id="file",
        ),
        pytest.param(
            KeyError("x"),
            "KeyError: 'x'; this is a mistake here: please report what --debug shows",
            id="unexpected",
        ),
    ],
)
def test_an_error_is_one_line_and_a_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    monkeypatch.setattr(scenario, "run_demo", raising(error))
    result = invoke("demo")
    assert (result.exit_code, result.output) == (1, f"Error: {line}\n")
    result = invoke("--debug", "demo")
    assert result.exit_code == 1
    assert result.output.startswith("Traceback (most recent call last):\n")
    assert result.output.endswith(f"\nError: {line}\n")


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "run_demo", raising(KeyboardInterrupt()))
    result = invoke("demo")
    assert (result.exit_code, result.output) == (130, "\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_of_itself_what_the_list_says(name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type] # it needs no context
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name]


BELL = "\a\x1b]0;title"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([f"dance{BELL}"], id="command"),
        pytest.param([f"--{BELL}"], id="option"),
        pytest.param(["list", f"--{BELL}"], id="option of a command"),
        pytest.param(["list", "1", BELL], id="argument too many"),
        pytest.param(["listen", "1", "--port", BELL], id="number"),
        pytest.param(["listen", "1", "--filter", BELL], id="filter"),
        pytest.param(["list", "--token-file", BELL], id="file"),
        pytest.param(["verify", "--secret-from", f"no{BELL}", "--signature", "x"], id="our file"),
        pytest.param(["inbox", "--store", f"sqlite:///no{BELL}"], id="store"),
        pytest.param(["serve", f"no{BELL}:client"], id="module"),
        pytest.param(["prune", "--public-url", BELL], id="URL"),
    ],
)
def test_what_is_said_of_an_argument_moves_no_cursor(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code in (1, 2)
    assert "\\x07\\x1b]0;title" in result.stderr
    assert result.stderr.replace("\n", "").isprintable()
