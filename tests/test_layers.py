"""The modules of the package: what may import what, read from the sources."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import asana_webhooks

PACKAGE = Path(asana_webhooks.__file__).parent

LAYERS = (
    {"_version", "errors"},
    {"_addresses", "_background", "_clock", "_deadline", "_logging", "_options"}
    | {"_signals", "_vocabulary", "models", "signature"},
    {"_asana_http", "_asana_responses"},
    {"_asana_connections", "_budget"},
    {
        "_asana_transport",
        "protocol",
        "stores",
        "stores._batcher",
        "stores._codec",
        "stores._encryption",
    },
    {"_fetch", "_remembered", "_request", "_writes"},
    {"_ping_pong"},
    {"_echoes"},
    {"_arrivals", "_attempt", "_continuity", "_dead_letters", "_dispatch", "api", "auth"}
    | {"router", "telemetry"}
    | {"stores.memory", "stores.postgres", "stores.redis", "stores.sqlite"},
    {"notices"},
    {"_ledger", "_sharing", "_sightings", "_stream"},
    {"_endpoint", "_establish", "_handlers", "_heartbeats", "_listener", "otel", "stores.urls"},
    {"_failures", "_lane", "_ownership", "_upkeep"},
    {"_active_claim"},
    {"_claims", "_recovery"},
    {"_workers"},
    {"_inbox", "_reconciliation"},
    {"_desired", "_receiver_aiohttp", "_receiver_asgi", "_receiver_bytes", "simulator"},
    {"_follow"},
    {"_accounts"},
    {"_components"},
    {"account"},
    {"client"},
    {"serving", "testing", "wsgi"},
    {""},  # the package itself, which shows what is public
    {"cli", "pytest_plugin"},
    {"__main__"},
)
LAYER_OF = {owner: number for number, names in enumerate(LAYERS) for owner in names}

KNOWN_TO_THE_SIMULATOR = {"models", "signature"}

# Modules that decide and never do I/O: what they may import beside modules of the package.
PURE = {
    "errors": {"typing"},
    "models": {"collections", "datetime", "contextlib", "hashlib", "msgspec", "re", "typing"},
    "signature": {"binascii", "hmac"},
    "protocol": {"collections", "datetime", "hmac", "msgspec", "re", "typing"},
}

IO = {
    "aiohttp",
    "asyncpg",
    "http.client",
    "httpx",
    "httpx_aiohttp",
    "redis",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "urllib.request",
}

MAY_DO_IO = {
    "_asana_responses",  # a part of api: knows the exceptions of httpx and aiohttp
    "api",
    "auth",
    "_asana_connections",  # a part of api: keeps its pool
    "_asana_http",  # a part of api: the client that makes its calls
    "_asana_transport",  # a part of api: sends its calls
    "_listener",  # a part of the receiver: its sockets
    "stores.postgres",
    "stores.redis",
    "stores.sqlite",
}


def modules() -> dict[str, Path]:
    """Return the path of each module by its dotted name below the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def owner_of(module: str) -> str:
    """Return the module that a module is a part of: itself, or the package whose inside it is."""
    folders = (
        *("auth", "cli", "simulator"),
        *(f"stores.{name}" for name in ("memory", "postgres", "redis", "sqlite")),
    )
    return next((folder for folder in folders if f"{module}.".startswith(f"{folder}.")), module)


MODULES = modules()


@cache
def imported(module: str) -> tuple[str, ...]:
    """Return the full dotted names that a module imports, wherever in the module it does so."""
    return tuple(_imported(module))


def _imported(module: str) -> Iterator[str]:
    package = f"asana_webhooks.{module}".rstrip(".").split(".")
    if MODULES[module].name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def own(module: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports."""
    for name in imported(module):
        head, _, rest = name.partition(".")
        if head == "asana_webhooks":
            yield rest if rest in MODULES else rest.rpartition(".")[0]


def foreign(module: str) -> set[str]:
    """Return the names of the libraries that a module imports."""
    heads = {name.partition(".")[0] for name in imported(module)}
    return heads - {"asana_webhooks", "__future__"}


def test_every_module_has_its_place() -> None:
    assert {owner_of(module) for module in MODULES} - {*LAYER_OF} == set()


def test_imports_point_downwards_only() -> None:
    imports = {(owner_of(module), owner_of(name)) for module in MODULES for name in own(module)}
    assert [
        f"{owner} imports {other}"
        for owner, other in sorted(imports)
        if owner != other and LAYER_OF[other] >= LAYER_OF[owner]
    ] == []


def test_modules_import_each_other_in_no_circle() -> None:
    below = {module: {*own(module)} - {module} for module in MODULES if module}
    assert list(TopologicalSorter(below).static_order())


def test_local_asana_knows_nothing_of_the_client() -> None:
    inside = [module for module in MODULES if owner_of(module) == "simulator"]
    others = {owner_of(name) for module in inside for name in own(module)} - {"simulator"}
    assert others <= KNOWN_TO_THE_SIMULATOR


@pytest.mark.parametrize("module", sorted(PURE))
def test_module_that_decides_imports_nothing_that_does(module: str) -> None:
    assert foreign(module) <= PURE[module]


def test_io_is_left_to_stores_and_api_and_shells() -> None:
    deciding = {
        module
        for module in MODULES
        if LAYER_OF.get(owner_of(module), 0) <= LAYER_OF["_endpoint"]
        and owner_of(module) not in MAY_DO_IO
    }
    assert [
        f"{module} imports {name}"
        for module in sorted(deciding)
        for name in imported(module)
        if any(f"{name}.".startswith(f"{io}.") for io in IO)
    ] == []


def test_the_store_contract_imports_no_store() -> None:
    assert {*own("stores")} == {"errors", "models"}


def test_library_of_an_extra_is_imported_where_the_extra_is_asked_for() -> None:
    extras = {"asyncpg", "authlib", "click", "cryptography", "opentelemetry", "redis", "rich"}
    users = {owner_of(module) for module in MODULES if foreign(module) & extras}
    assert users <= {
        *("auth", "cli", "otel", "pytest_plugin"),
        *("stores.postgres", "stores.redis", "stores._encryption"),
    }


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield where each docstring of the package stands, and its first word."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}", text.split()[0]


def test_docstrings_begin_with_what_a_thing_is_or_does() -> None:
    bare = {"What", "Who", "Whose", "Which", "Where", "Why", "How", "Let", "That"}
    assert [place for place, first in docstrings() if first in bare] == []
