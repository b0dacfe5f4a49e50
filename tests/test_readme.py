"""The README says what is so, and its program runs."""

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from conftest import until

import asana_webhooks
from asana_webhooks import WebhooksClient
from asana_webhooks.cli.app import COMMANDS
from asana_webhooks.simulator import AsanaSimulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table_below(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "printed"),
    [
        pytest.param("README.md", "was completed", id="readme"),
        pytest.param("docs/operations.md", "added", id="operations"),
    ],
)
async def test_first_program_runs_against_the_local_asana(
    page: str, printed: str, asana: AsanaSimulator, free_port: int, tmp_path: Path
) -> None:
    program = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    url = "https://hooks.example.com/asana"
    here = f'http://127.0.0.1:{free_port}/asana", port={free_port}, base_url="{asana.base_url}'
    for old, new in ((url, here), ("1204619000000000", asana.project)):
        assert old in program
        program = program.replace(old, new)
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, "-u", "program.py"],
        cwd=tmp_path,
        env=os.environ | {"ASANA_ACCESS_TOKEN": "a-token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            await until(lambda: asana.webhooks)
            task = await asana.create_task("Fix the login", project=asana.project)
            await asana.complete_task(task)
            assert process.stdout is not None
            line = await anyio.to_thread.run_sync(process.stdout.readline)
            await asana.settled()
            process.send_signal(signal.SIGINT)
            _, complaints = await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
    assert line.startswith(f"task {task} {printed}")
    assert process.returncode == 0
    assert {line.split(":")[0] for line in complaints.splitlines()} <= {"INFO"}
    if page == "README.md":
        for said in (f"receiving on port {free_port}", f"resource {asana.project}: established"):
            assert said in complaints


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
    assert errors - listed == {"AsanaWebhooksError"}
    assert listed <= errors


@pytest.mark.slow
def test_output_of_the_demo_is_what_it_prints() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    demo = [sys.executable, "-m", "asana_webhooks", "demo"]
    printed = subprocess.run(demo, capture_output=True, check=True, text=True).stdout
    assert [without_numbers(line) for line in shown.splitlines()] == [
        without_numbers(line) for line in printed.splitlines() if not re.match(r"ok .*checks", line)
    ][: len(shown.splitlines())]


def test_commands_for_a_checkout_are_a_block_of_their_own() -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    demo, tests = (
        'pip install -e ".[cli]" && asana-webhooks demo',
        'pip install -e ".[dev]" && pytest',
    )
    assert f"$ {demo}\n$ {tests}\n" in blocks


def without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", line)


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = [
    pytest.param(page, link, id=f"{page.name}-{link}")
    for page in PAGES
    for link in dict.fromkeys(re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()))
]


def anchors_of(page: Path) -> set[str]:
    """Return what GitHub makes of the headings: lower case, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not anchor or anchor in anchors_of(target)


PROGRAMS = [
    pytest.param(page, program, id=f"{page.name}-{number}")
    for page in PAGES
    for number, program in enumerate(
        re.findall(r"```py(?:thon)?\n(.*?)```", page.read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_names_that_programs_import_are_there(page: Path, program: str) -> None:
    for line in re.findall(r"^from asana_webhooks\S* import .*$", program, re.MULTILINE):
        exec(line, {})  # noqa: S102 - as a program would
