"""The README says what is so, and its program runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from conftest import until

import asana_webhooks
from asana_webhooks import WebhooksClient
from asana_webhooks.cli.commands import COMMANDS
from asana_webhooks.simulator import AsanaSimulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table_below(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


async def test_first_program_runs_against_the_local_asana(
    asana: AsanaSimulator, free_port: int, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    url = "https://hooks.example.com/asana"
    here = f'http://127.0.0.1:{free_port}/asana", port={free_port}, base_url="{asana.base_url}'
    for old, new in ((url, here), ("1204619000000000", asana.project)):
        assert old in program
        program = program.replace(old, new)
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, "-u", "program.py"],
        cwd=tmp_path,
        env={"ASANA_ACCESS_TOKEN": "a-token", "PATH": ""},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            await until(lambda: asana.webhooks)
            task = await asana.create_task("Fix the login", project=asana.project)
            await asana.complete_task(task)
            assert process.stdout is not None
            line = await anyio.to_thread.run_sync(process.stdout.readline)
        finally:
            process.kill()
    assert line.decode().startswith(f"task {task} was completed")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_place_in_the_documentation(command: str) -> None:
    headings = [
        line for line in (ROOT / "docs" / "cli.md").read_text().splitlines() if line[:1] == "#"
    ]
    assert any(f"`{command}`" in heading for heading in headings)


def test_configuration_table_lists_every_parameter() -> None:
    listed = [name for row in table_below("Configuration") for name in names_in(row[0])]
    parameters = [*inspect.signature(WebhooksClient).parameters]
    assert sorted(listed) == sorted(parameters)


def test_errors_table_lists_every_error() -> None:
    listed = {name for row in table_below("Errors") for name in names_in(row[0])}
    errors = {name for name in asana_webhooks.__all__ if name.endswith("Error")}
    assert errors - listed == {"AsanaWebhooksError", "EstablishmentError"}
    assert listed <= errors


def test_output_of_the_demo_is_what_it_prints() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    demo = [sys.executable, "-m", "asana_webhooks", "demo"]
    printed = subprocess.run(demo, capture_output=True, check=True, text=True).stdout
    assert [without_numbers(line) for line in shown.splitlines()] == [
        without_numbers(line) for line in printed.splitlines() if not re.match(r"ok .*checks", line)
    ][: len(shown.splitlines())]


def without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", line)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert Path(__file__).parent.parent.joinpath(path).exists()
