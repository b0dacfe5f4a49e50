"""``asana-webhooks completion``: the scripts, and a real bash that runs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from asana_webhooks.cli.app import COMMANDS, cli


@pytest.mark.parametrize(
    ("shell", "sign"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef"), ("fish", "complete --no-files")],
)
def test_script_is_of_the_shell_and_for_this_program(shell: str, sign: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0, result.output
    assert sign in result.stdout
    assert "asana-webhooks" in result.stdout
    assert f"_ASANA_WEBHOOKS_COMPLETE={shell}_complete" in result.stdout


def test_unknown_shell_is_a_wrong_call() -> None:
    result = CliRunner().invoke(cli, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in whose path there is an ``asana-webhooks``, installed or not."""
    script = tmp_path / "asana-webhooks"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CALL}" "$@"\n')
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


CALL = "from asana_webhooks.cli import main; main()"

ASK = """
eval "$(asana-webhooks completion bash)"
COMP_WORDS=({words}) COMP_CWORD={place}
_asana_webhooks_completion asana-webhooks
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        pytest.param(["asana-webhooks", "''"], set(COMMANDS), id="commands"),
        pytest.param(["asana-webhooks", "e"], {"ensure", "establish"}, id="letter"),
        pytest.param(["asana-webhooks", "--d"], {"--debug"}, id="option"),
        pytest.param(["asana-webhooks", "list", "--res"], {"--resource"}, id="option of a command"),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes(program: dict[str, str], words: list[str], wanted: set[str]) -> None:
    asked = ASK.format(words=" ".join(words), place=len(words) - 1)
    ended = subprocess.run(
        ["bash", "--norc", "-c", asked],
        env=program,
        capture_output=True,
        encoding="utf-8",
        timeout=40,
        check=False,
    )
    assert ended.stderr == ""
    assert set(ended.stdout.split()) == wanted


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("", set(COMMANDS)), ("de", {"delete", "demo"}), ("-", {"--debug", "--version", "--help"})],
)
def test_commands_are_completed_with_their_help(typed: str, wanted: set[str]) -> None:
    known = {"COMP_WORDS": f"asana-webhooks {typed}", "COMP_CWORD": "1" if typed else "2"}
    result = CliRunner().invoke(
        cli,
        prog_name="asana-webhooks",
        env={**known, "_ASANA_WEBHOOKS_COMPLETE": "zsh_complete"},
    )
    lines = result.stdout.splitlines()
    found = dict(zip(lines[1::3], lines[2::3], strict=True))
    assert wanted <= set(found)
    assert {name: COMMANDS[name] for name in wanted & set(COMMANDS)}.items() <= found.items()


def test_names_of_faults_are_completed() -> None:
    known = {"COMP_WORDS": "asana-webhooks simulate --fault stranger-", "COMP_CWORD": "3"}
    result = CliRunner().invoke(
        cli,
        prog_name="asana-webhooks",
        env={**known, "_ASANA_WEBHOOKS_COMPLETE": "bash_complete"},
    )
    assert result.stdout.split() == ["plain,stranger-first", "plain,stranger-after"]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        pytest.param("", set(COMMANDS), id="command"),
        pytest.param("listen --in", {"--inspect"}, id="option"),
        pytest.param("inbox discard --o", {"--older-than"}, id="option of a command of a command"),
    ],
)
def test_completing_loads_nothing_heavy(
    program: dict[str, str], typed: str, wanted: set[str]
) -> None:
    code = (
        "import sys\nfrom asana_webhooks.cli import main\n"
        "try: main()\nfinally: print({'aiohttp', 'anyio', 'asyncio', 'httpx'} & set(sys.modules))"
    )
    known = {"COMP_WORDS": f"asana-webhooks {typed}", "COMP_CWORD": str(typed.count(" ") + 1)}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**program, **known, "_ASANA_WEBHOOKS_COMPLETE": "bash_complete"},
        capture_output=True,
        encoding="utf-8",
        timeout=40,
        check=False,
    )
    *found, loaded = ended.stdout.split()
    assert loaded == "set()"
    assert {line.removeprefix("plain,") for line in found} == wanted
