import ast
import pydoc
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import asana_webhooks
from asana_webhooks import errors

PUBLIC_MODULES = [
    *("account", "api", "auth", "cli", "client", "errors", "models", "notices", "otel", "protocol"),
    *(
        "pytest_plugin",
        "router",
        "serving",
        "signature",
        "simulator",
        "stores",
        "telemetry",
        "testing",
    ),
    "wsgi",
]

HEAVY = {"aiohttp", "anyio", "httpx", "httpx_aiohttp", "sqlite3"}


def modules_after(program: str) -> set[str]:
    """Return the names of the modules that a program has loaded at its end."""
    program = f"import sys\n{program}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import asana_webhooks", id="import"),
        pytest.param("import asana_webhooks; dir(asana_webhooks)", id="dir"),
        pytest.param("from asana_webhooks import verify_signature, Event", id="names"),
        pytest.param(
            "import asana_webhooks\n"
            "try: asana_webhooks.verify_signature(b'', '', '')\n"
            "except asana_webhooks.SignatureError: pass",
            id="verifying",
        ),
    ],
)
def test_heavy_libraries_are_not_loaded_before_they_are_needed(program: str) -> None:
    loaded = modules_after(program)
    assert "asana_webhooks.signature" in loaded
    assert loaded & HEAVY == set()


def test_heavy_libraries_are_loaded_for_a_name_that_needs_them() -> None:
    assert {"httpx", "aiohttp"} <= modules_after("from asana_webhooks import WebhooksClient")


@pytest.mark.parametrize("name", asana_webhooks.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from asana_webhooks import {name}", namespace)  # noqa: S102 - as a program would
    assert namespace[name] is getattr(asana_webhooks, name)
    assert name in dir(asana_webhooks)


def test_star_brings_the_public_names_alone() -> None:
    namespace: dict[str, object] = {}
    exec("from asana_webhooks import *", namespace)  # noqa: S102 - as a program would
    assert sorted(namespace.keys() - {"__builtins__"}) == asana_webhooks.__all__


def test_public_names_are_sorted_and_each_is_named_once() -> None:
    assert asana_webhooks.__all__ == sorted(set(asana_webhooks.__all__))


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(asana_webhooks.__all__)


def test_every_public_name_is_used_where_types_are_checked() -> None:
    program = ast.parse((Path(__file__).parent / "typing" / "api.py").read_text())
    used = {node.id for node in ast.walk(program) if isinstance(node, ast.Name)}
    assert set(asana_webhooks.__all__) - used == set()


@pytest.mark.parametrize("name", ["nonsense", "_private", "websockets", "WebHooksClient"])
def test_unknown_name_raises_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'asana_webhooks' has no attribute '{name}'"):
        getattr(asana_webhooks, name)
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from asana_webhooks import {name}")  # noqa: S102 - as a program would


def test_help_shows_the_public_modules_and_no_other_without_an_underscore() -> None:
    shown = pydoc.plain(pydoc.render_doc(asana_webhooks))
    contents = shown.partition("PACKAGE CONTENTS\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in contents.splitlines()]
    assert [name for name in names if not name.startswith("_")] == PUBLIC_MODULES


def test_version_is_that_of_the_distribution() -> None:
    assert asana_webhooks.__version__ == version("asana-webhooks")
