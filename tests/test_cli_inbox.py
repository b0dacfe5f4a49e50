"""``asana-webhooks inbox``: what it tells of a store, and what it does to dead letters."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from asana_webhooks.cli.app import cli
from asana_webhooks.models import DeadLetter, Delivery, Progress, Route, Settlement
from asana_webhooks.stores import Store
from asana_webhooks.stores.sqlite import SqliteStore

T = TypeVar("T")
BODY = b'{"events":[{"action":"added"}]}'
SECRET = "s" * 64


class Shell:
    """The command line, with a store of three dead letters and one delivery that waits."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def run(self, *arguments: str, answer: str = "") -> Result:
        known = {"ASANA_WEBHOOKS_STORE": f"sqlite:///{self.file}"}
        return CliRunner().invoke(cli, ["inbox", *arguments], env=known, input=answer)

    def lines(self, *arguments: str) -> list[str]:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    def store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def do() -> T:
            async with SqliteStore(self.file) as store:
                return await work(store)

        return asyncio.run(do())

    def reasons(self) -> list[str]:
        async def look(store: Store) -> list[str]:
            return [letter.reason for letter in await store.dead_letters()]

        return self.store(look)

    def waiting(self) -> int:
        async def look(store: Store) -> int:
            return (await store.counts()).waiting

        return self.store(look)


def delivery(number: int, *, route: str, body: bytes = BODY, ago: float = 0.0) -> Delivery:
    digest = hashlib.sha256(str(number).encode()).digest()
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return Delivery(route=route, body=body, digest=digest, received_at=at)


async def fill(store: Store) -> None:
    for id_, resource, gid in (("a" * 32, "12", "71"), ("b" * 32, "13", "72")):
        target = f"https://h.example/{id_}"
        await store.reserve(Route(id=id_, target=target, resource=resource), ttl=60)
        await store.add_candidate(id_, SECRET)
        await store.confirm(id_, gid=gid, secret=SECRET)
    await store.put(delivery(1, route="a" * 32), reason="handler f failed 10 times: TimeoutError")
    await store.put(delivery(2, route="b" * 32), reason="not a delivery: truncated")
    await store.put(delivery(3, route="a" * 32, body=b"\x1b[31m{"), reason="not a delivery: \x1b")
    await store.put(delivery(4, route="a" * 32, ago=3_725))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path / "store.db")
    shell.store(fill)
    return shell


def test_overview_counts_and_lists_the_oldest_first(shell: Shell) -> None:
    lines = shell.lines()
    assert lines[0].split() == ["waiting:", "1"]
    assert lines[1].split() == ["dead_letters:", "3"]
    assert lines[2].split() == ["oldest_age:", "1:02:05"]
    assert lines[4].split() == ["id", "buried", "age", "webhook", "resource", "bytes", "reason"]
    assert [line.split()[0] for line in lines[5:]] == ["1", "2", "3"]
    assert "71" in lines[5]
    assert "handler f failed 10 times: TimeoutError" in lines[5]
    assert "\x1b" not in "".join(lines)
    assert SECRET not in "".join(lines)
    assert "a" * 32 not in "".join(lines)


def test_overview_as_json_is_a_record_a_line(shell: Shell) -> None:
    counts, *letters = map(json.loads, shell.lines("--json", "--limit", "2"))
    assert (counts["waiting"], counts["dead_letters"]) == (1, 3)
    assert counts["oldest_age"] > 3_700
    assert [letter["id"] for letter in letters] == ["1", "2"]
    assert letters[0]["resource"] == "12"


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        pytest.param(["--resource", "12"], ["1", "3"], id="resource"),
        pytest.param(["--webhook", "72"], ["2"], id="webhook"),
        pytest.param(["--reason", "NOT a delivery"], ["2", "3"], id="reason"),
        pytest.param(["--older-than", "1h"], [], id="age"),
        pytest.param(["--older-than", "0s"], ["1", "2", "3"], id="no age"),
        pytest.param(["--reason", "delivery", "--resource", "12"], ["3"], id="both"),
    ],
)
def test_letters_are_chosen_by_filter(shell: Shell, filters: list[str], ids: list[str]) -> None:
    _, *letters = map(json.loads, shell.lines(*filters, "--json"))
    assert [letter["id"] for letter in letters] == ids


def test_empty_store_says_so(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    file.touch()
    result = Shell(file).run()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == ["oldest_age:", "-"]
    assert result.stderr == "no dead letters\n"


@pytest.mark.parametrize(
    "arguments", [[], ["show", "1"], ["replay", "1"], ["discard", "1", "--yes"]], ids=" ".join
)
def test_store_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "wrong.db"
    result = Shell(file).run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no store at sqlite:///{file}: name the one" in result.stderr
    assert not file.exists()
    assert Shell(file).run("show", "--help").exit_code == 0


def test_letter_is_shown_with_its_body(shell: Shell) -> None:
    lines = shell.lines("show", "1")
    fields = dict(line.split(":", 1) for line in lines[: lines.index("")])
    assert fields["webhook"].strip() == "71"
    assert fields["handlers"].strip() == "all"
    assert json.loads("\n".join(lines[lines.index("") :])) == json.loads(BODY)


def test_body_that_is_no_json_cannot_write_on_the_terminal(shell: Shell) -> None:
    output = shell.run("show", "3").stdout
    assert "\x1b" not in output
    assert "\\x1b[31m{" in output


def test_letter_as_json_has_its_body(shell: Shell) -> None:
    (line,) = shell.lines("show", "1", "--json")
    letter = json.loads(line)
    assert letter["body"].encode() == BODY
    assert letter["handlers"] == []


def test_letter_names_the_handlers_that_failed(shell: Shell) -> None:
    names = ("app.tasks:celebrate", "app:\x1b[31m")

    async def give_up(store: Store) -> None:
        claim = await store.claim(limit=1, lease=60)
        assert claim is not None
        (failed,) = claim.deliveries
        letter = DeadLetter(
            route=failed.route,
            body=failed.body,
            reason="odd",
            received_at=failed.received_at,
            buried_at=failed.received_at,
            progress=Progress(pending=names).encode(),
        )
        await store.end_claim(claim, Settlement(removed=(failed.id,), letters=(letter,)))

    shell.store(give_up)
    assert "handlers: app.tasks:celebrate, app:\\x1b[31m" in shell.lines("show", "4")
    (line,) = shell.lines("show", "4", "--json")
    assert tuple(json.loads(line)["handlers"]) == names


def test_unknown_letter_is_one_line(shell: Shell) -> None:
    result = shell.run("show", "99")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: there is no dead letter '99': `asana-webhooks inbox` lists them\n"
    )


@pytest.mark.parametrize(
    ("which", "left"),
    [
        pytest.param(["1", "3", "3"], ["2"], id="ids"),
        pytest.param(["--webhook", "71"], ["2"], id="filter"),
        pytest.param(["--all"], [], id="all"),
    ],
)
@pytest.mark.parametrize("act", ["replay", "discard"])
def test_chosen_letters_are_replayed_or_discarded(
    shell: Shell, act: str, which: list[str], left: list[str]
) -> None:
    options = ["--yes"] if act == "discard" else []
    assert shell.lines(act, *which, *options) == [f"{3 - len(left)} {act}ed"]
    assert len(shell.reasons()) == len(left)
    assert shell.waiting() == (4 - len(left) if act == "replay" else 1)


@pytest.mark.parametrize("act", [["replay"], ["discard", "--yes"]], ids=["replay", "discard"])
def test_ids_of_none_are_a_failure_but_the_others_are_done(shell: Shell, act: list[str]) -> None:
    result = shell.run(*act, "1", "98", "99")
    assert (result.exit_code, result.stdout) == (1, f"1 {act[0]}ed\n")
    assert result.stderr.startswith("Error: there is no dead letter '98', '99': ")
    assert len(shell.reasons()) == 2


def test_discarding_asks_first(shell: Shell) -> None:
    refused = shell.run("discard", "--all", answer="n\n")
    assert refused.exit_code == 1
    assert "Aborted" in refused.stderr
    unanswered = shell.run("discard", "--all")
    assert unanswered.exit_code == 1
    assert "Error: nobody is there to answer" in unanswered.stderr
    assert "--yes" in unanswered.stderr
    assert len(shell.reasons()) == 3
    assert shell.run("discard", "--all", answer="y\n").exit_code == 0
    assert shell.reasons() == []


@pytest.mark.parametrize("act", ["replay", "discard"])
@pytest.mark.parametrize(
    ("which", "said"),
    [
        pytest.param([], "say which dead letters", id="nothing"),
        pytest.param(["1", "--all"], "say in one way which", id="id and all"),
        pytest.param(["1", "--webhook", "71"], "say in one way which", id="id and filter"),
        pytest.param(["--all", "--reason", "x"], "say in one way which", id="filter and all"),
    ],
)
def test_unclear_choice_does_nothing(shell: Shell, act: str, which: list[str], said: str) -> None:
    result = shell.run(act, *which)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(shell.reasons()) == 3


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_filter_before_the_command_is_not_passed_over(shell: Shell, act: str) -> None:
    result = shell.run("--webhook", "71", act, "--all")
    assert result.exit_code == 2
    assert f"filters stand behind the command: inbox {act} --reason" in result.stderr
    assert len(shell.reasons()) == 3


@pytest.mark.parametrize("age", ["", "5", "-5s", "1w", "9999999d"])
def test_age_that_is_none_is_explained(shell: Shell, age: str) -> None:
    result = shell.run("--older-than", age)
    assert result.exit_code == 2
    assert "write 90s, 15m, 12h or 7d" in result.stderr


def test_store_that_does_not_open_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.write_text("no database" * 100)
    result = Shell(file).run()
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "it is not a SQLite database" in result.stderr
