"""The fixtures as users have them: in projects of their own, under each plugin for asyncio."""

import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple

import pytest
from test_package import HEAVY, modules_after

from asana_webhooks import pytest_plugin

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGE = ROOT.joinpath("docs/testing.md").read_text()

ANYIO, ASYNCIO = "anyio.pytest_plugin", "pytest_asyncio.plugin"
LOOP_SCOPE = "asyncio_default_fixture_loop_scope = function"


class Setting(NamedTuple):
    """How a project has its asynchronous tests run: by which plugins, told by what."""

    plugins: tuple[str, ...] = ()
    ini: str = ""
    head: str = ""


STRICT = Setting((ASYNCIO, ANYIO), LOOP_SCOPE, "pytestmark = pytest.mark.asyncio")
AUTO = Setting((ASYNCIO, ANYIO), f"{LOOP_SCOPE}\nasyncio_mode = auto")
BACKEND = "anyio_backend = pytest.fixture(lambda: 'asyncio')"
MARKED = Setting((ANYIO,), head=f"pytestmark = pytest.mark.anyio\n{BACKEND}")
ANYIO_AUTO = Setting((ANYIO,), "anyio_mode = auto", BACKEND)

ASYNCHRONOUS = """
async def test_completed_task_is_celebrated(asana_simulator, asana_client):
    completed = []

    @asana_client.on("task", action="changed", field="completed")
    async def celebrate(event):
        completed.append((event.resource.gid, asyncio.get_running_loop()))

    async with asana_client:
        await asana_client.ensure(asana_simulator.project)
        task = await asana_simulator.create_task("Fix it", project=asana_simulator.project)
        await asana_simulator.complete_task(task)
        await asana_simulator.settled()
        await drain(asana_client)
    assert completed == [(task, asyncio.get_running_loop())]

async def test_that_fails_in_the_middle(asana_simulator, asana_client):
    async with asana_client:
        await asana_client.ensure(asana_simulator.project)
        await asana_simulator.create_task("Fix it", project=asana_simulator.project)
        raise KeyError

async def test_that_blocks_its_loop(asana_simulator, asana_client):
    async with asana_client:
        asana_simulator.run(asana_simulator.settled())

async def test_nothing_is_left():
    assert threading.active_count() == 1
    assert not [task for task in asyncio.all_tasks() if "asana" in task.get_name()]
"""

SYNCHRONOUS = """
import asyncio

def test_with_the_simulator_alone(asana_simulator):
    project = asana_simulator.project
    task = asana_simulator.run(asana_simulator.create_task("Fix it", project=project))
    asana_simulator.run(asana_simulator.complete_task(task))

def test_in_a_loop_of_its_own(asana_simulator, asana_client):
    async def scenario():
        async with asana_client:
            return await asana_client.ensure(asana_simulator.project)

    assert asyncio.run(scenario()).gid in asana_simulator.webhooks

def test_that_enters_as_no_client_can_be(asana_client):
    with asana_client:
        pass
"""


@pytest.fixture(autouse=True)
def without_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each project the plugins that it names, whatever is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, ini: str, *plugins: str) -> pytest.RunResult:
    """Run the tests of a project in a process of its own, in which each warning is an error."""
    pytester.path.joinpath("pytest.ini").write_text(f"[pytest]\n{ini}\n")
    named = [f"-p{name}" for name in (*plugins, "asana_webhooks.pytest_plugin")]
    return pytester.runpytest_subprocess("-q", "-W", "error", *named, timeout=60)


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(STRICT, id="asyncio-strict"),
        pytest.param(AUTO, id="asyncio-auto"),
        pytest.param(AUTO._replace(plugins=(ASYNCIO,)), id="asyncio-auto-without-anyio"),
        pytest.param(MARKED, id="anyio-marked"),
        pytest.param(ANYIO_AUTO, id="anyio-auto"),
    ],
)
def test_same_tests_pass_and_fail_under_every_plugin(
    pytester: pytest.Pytester, setting: Setting
) -> None:
    head = "import asyncio, threading, pytest\nfrom asana_webhooks.testing import drain\n"
    pytester.makepyfile(test_async=f"{head}{setting.head}\n{ASYNCHRONOUS}", test_sync=SYNCHRONOUS)
    result = run(pytester, setting.ini, *setting.plugins)
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "E *KeyError",
            "E *RuntimeError: run() would block *; await the call instead",
            "E *TypeError: *enter it with `async with`, in an async test*",
        ]
    )
    assert "Warning" not in result.stdout.str()


def test_synchronous_tests_need_no_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_sync=SYNCHRONOUS)
    run(pytester, "").assert_outcomes(passed=2, failed=1)


def test_fixture_of_the_same_name_takes_the_place_of_the_simulator(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(conftests()[1])
    pytester.makepyfile(
        """
        import asyncio

        def test_target_may_have_a_name(asana_simulator, asana_client):
            async def scenario():
                async with asana_client:
                    await asana_client.create_webhook(
                        asana_simulator.project, "http://receiver.test/asana"
                    )
            asyncio.run(scenario())
        """
    )
    result = run(pytester, "")
    result.stdout.fnmatch_lines(["*BadRequestError: *did not respond with the handshake secret*"])


def test_client_of_a_module_finds_the_local_asana_that_conftest_has_started(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(conftests()[0])
    pytester.makepyfile(
        program=ROOT.joinpath("examples/fastapi_app.py").read_text(),
        test_program="""
        from conftest import asana, listener
        from program import app, client

        def test_client_is_of_the_local_asana():
            assert client._transport.base_url == asana.base_url
            assert asana.run(asana.create_task("Fix it", project=asana.project))
        """,
    )
    run(pytester, "").assert_outcomes(passed=1)


def test_fixtures_make_as_many_clients_as_are_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio

        def test_two(asana_simulator, asana_client, make_asana_client):
            async def scenario():
                async with asana_client, make_asana_client(max_attempts=1) as other:
                    await asana_client.ensure(asana_simulator.project)
                    await other.ensure(asana_simulator.project)
            asyncio.run(scenario())
            assert len(asana_simulator.webhooks) == 2
        """
    )
    outcome = pytester.inline_run("-p", "asana_webhooks.pytest_plugin")
    outcome.assertoutcome(passed=1)


# How it comes to its users


def test_pytest_is_told_of_the_plugin() -> None:
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["pytest11"].items()
    assert EntryPoint(name, value, "pytest11").load() is pytest_plugin


def test_plugin_loads_nothing_heavy_before_a_fixture_is_used() -> None:
    loaded = modules_after("import asana_webhooks.pytest_plugin")
    assert loaded & HEAVY == set()


# The page


def conftests() -> list[str]:
    """Return what the page puts into ``conftest.py``, in its order."""
    found: list[str] = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    return found


def sections() -> dict[str, str]:
    """Return the parts of the page that show a program and what it prints, by their headings."""
    parts = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
    return {heading: part for heading, part in parts.items() if "```console" in part}


@pytest.mark.parametrize("heading", sections())
def test_program_of_the_page_prints_what_the_page_shows(
    pytester: pytest.Pytester, heading: str
) -> None:
    part = sections()[heading]
    (program,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    (shown,) = re.findall(r"```console\n\$ pytest -q\n(.*?)```", part, re.DOTALL)
    (ini,) = re.findall(r"```ini\n\[pytest\]\n(.*?)```", part, re.DOTALL) or [""]
    pytester.path.joinpath("test_program.py").write_text(program)
    result = run(pytester, ini, ANYIO, *([ASYNCIO] if "asyncio_" in ini else []))
    assert without_seconds(result.stdout.str()) == without_seconds(shown)


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d+s", "0s", text).strip()


@pytest.mark.parametrize("name", pytest_plugin.__all__)
def test_every_fixture_is_on_the_page(name: str) -> None:
    assert f"| `{name}` |" in PAGE


def test_this_suite_does_without_the_plugins_that_it_tests(request: pytest.FixtureRequest) -> None:
    manager = request.config.pluginmanager
    assert not manager.has_plugin("anyio")
    assert not manager.has_plugin("asana_webhooks")
    assert sys.modules[pytest_plugin.__name__] not in manager.get_plugins()
