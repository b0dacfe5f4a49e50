"""The suite's demands on its own tests: projects with the same conftest.py."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
INI = "[pytest]\nasyncio_mode = auto\nmarkers =\n    servers\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return a project whose conftest.py is that of the suite."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.delenv("CI", raising=False)
    pytester.path.joinpath("pytest.ini").write_text(INI)
    pytester.makeconftest((HERE / "conftest.py").read_text())
    return pytester


def run(project: pytest.Pytester) -> pytest.RunResult:
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "xdist.plugin")
    return project.runpytest_subprocess("-q", "-rA", *plugins, timeout=60)


def test_skipped_test_is_a_failure_in_ci_only(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.skipif(True, reason="it is not there")
        def test_one(): pass

        def test_other():
            pytest.skip("it is not there either")
        """
    )
    run(project).assert_outcomes(skipped=2)
    monkeypatch.setenv("CI", "true")
    run(project).assert_outcomes(errors=1, failed=1)


def test_exception_that_only_the_event_loop_has_heard_of_is_an_error(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        import asyncio

        async def test_it():
            def fail():
                raise KeyError("nobody hears it")
            asyncio.get_running_loop().call_soon(fail)
            await asyncio.sleep(0)
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*nobody hears it*"])


def test_case_whose_name_is_an_address_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("value", [object()], ids=repr)
        def test_it(value): pass
        """
    )
    run(project).stderr.fnmatch_lines(["*the address of an object is no name of a case*"])


def test_test_that_asks_for_a_server_is_marked(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def valkey(): pass

        def test_with(valkey, request):
            assert request.node.get_closest_marker("servers")

        def test_without(request):
            assert not request.node.get_closest_marker("servers")
        """
    )
    run(project).assert_outcomes(passed=2)


def test_processes_that_tests_start_find_what_others_have_compiled(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    project.path.joinpath("library.py").write_text("")
    project.makepyfile(
        """
        import subprocess, sys
        from pathlib import Path

        def test_it(pytestconfig):
            program = "import library; print(library.__cached__, end='')"
            cached = Path(subprocess.check_output([sys.executable, "-c", program], text=True))
            assert cached.is_relative_to(pytestconfig.cache.mkdir("bytecode"))
            assert cached.exists()
        """
    )
    run(project).assert_outcomes(passed=1)
    assert not project.path.joinpath("__pycache__").exists()
