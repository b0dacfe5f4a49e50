"""``asana-webhooks gaps``, and ``list --health``: what a store proves, told on the command line."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from support.cli_shell import Shell, shell

from asana_webhooks import SqliteStore
from asana_webhooks._continuity import Tally, Watch
from asana_webhooks._ledger import keep, load

__all__ = ["shell"]

NOON = datetime(2026, 7, 4, 12, tzinfo=UTC)


def store_watch(shell: Shell, resource: str, watch: Watch) -> None:
    """Put the continuity of a resource in the store."""

    async def put() -> None:
        async with SqliteStore(shell.file) as store:
            _, version = await load(store, f"/{resource}")
            assert await keep(store, f"/{resource}", version, watch)

    asyncio.run(put())


WATCH = Watch(seen=200, recovered=12, late=2).begun("token", NOON).complete(NOON)
GAPPED = WATCH.with_gap("expired", NOON, NOON + timedelta(hours=6), "it was not read").with_gap(
    "refused", NOON + timedelta(hours=8), None, "403: no"
)


def test_gaps_are_listed_oldest_first(shell: Shell) -> None:
    gid = shell.establish()
    store_watch(shell, shell.asana.project, GAPPED)
    first, second = shell.records("gaps")
    expired, refused = GAPPED.gaps
    assert first == {
        "id": expired.id,
        "webhook": gid,
        "resource": shell.asana.project,
        "account": "",
        "start": "2026-07-04T12:00:00+00:00",
        "end": "2026-07-04T18:00:00+00:00",
        "reason": "expired",
        "detail": "it was not read",
    }
    assert (second["id"], second["end"]) == (refused.id, None)
    lines = shell.run("gaps").stdout.splitlines()
    assert [word in lines[1] for word in (expired.id, gid, "2026-07-04 18:00:00", "6:00:00")]


def test_gap_of_a_webhook_that_is_gone_is_listed(shell: Shell) -> None:
    shell.establish()
    store_watch(shell, "99", Watch(gaps=GAPPED.gaps[:1]))
    (gap,) = shell.records("gaps")
    assert (gap["webhook"], gap["resource"]) == (None, "99")


def test_gaps_are_closed_by_their_ids(shell: Shell) -> None:
    shell.establish()
    store_watch(shell, shell.asana.project, GAPPED)
    first, second = GAPPED.gaps
    assert shell.run("gaps", "close", first.id, first.id).stdout == "1 closed\n"
    assert [gap["id"] for gap in shell.records("gaps")] == [second.id]
    assert shell.run("gaps", "close", second.id).exit_code == 0
    assert shell.run("gaps").stderr == "no gaps\n"


def test_gap_that_is_not_there_is_named(shell: Shell) -> None:
    shell.establish()
    store_watch(shell, shell.asana.project, GAPPED)
    result = shell.run("gaps", "close", GAPPED.gaps[0].id, "nonsense")
    assert (result.exit_code, result.stdout) == (1, "1 closed\n")
    assert "there is no gap 'nonsense'" in result.stderr
    assert len(shell.records("gaps")) == 1


def test_gaps_of_a_store_that_is_not_there_are_none_of_another(shell: Shell) -> None:
    assert "there is no store at" in shell.failure("gaps", "--store", "sqlite:///nonsense.db")


def test_health_tells_until_when_it_is_proven_and_what_was_missing(shell: Shell) -> None:
    gid = shell.establish()
    tally = Tally()
    for _ in range(100):
        tally.add(1.0)
    store_watch(shell, shell.asana.project, GAPPED.counted(tally))
    other = shell.establish("--store", f"sqlite:///{shell.file}.other")
    header, first, second = shell.run("list", "--health").stdout.splitlines()
    for name in ("evidence", "proven until", "gaps", "recovered", "dropped", "median", "99 %"):
        assert name in header
    for value in (gid, "stream", "2026-07-04 12:00:00", "2", "12", "10 (5.0%)", "1 s"):
        assert value in first
    assert other in second
    assert "stream" not in second


def test_health_as_json_has_the_continuity(shell: Shell) -> None:
    gid = shell.establish()
    store_watch(shell, shell.asana.project, GAPPED)
    shell.establish("--store", f"sqlite:///{shell.file}.other")
    records = [
        json.loads(line) for line in shell.run("list", "--health", "--json").stdout.splitlines()
    ]
    continuity = {record["gid"]: record["continuity"] for record in records}
    known = continuity.pop(gid)
    assert list(continuity.values()) == [None]
    assert (known["evidence"], known["seen"], known["dropped"]) == ("stream", 200, 10)
    assert known["dropped_share"] == pytest.approx(0.05)
    assert [gap["id"] for gap in known["gaps"]] == [gap.id for gap in GAPPED.gaps]
