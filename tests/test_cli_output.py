"""Printing of records."""

from __future__ import annotations

import io
import re

import pytest

from asana_webhooks.cli.output import on_one_line, print_records


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_colour", ["", "1"], ids=["colour", "NO_COLOR"])
def test_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, no_colour: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", no_colour)
    records: list[dict[str, str | None]] = [
        {"id": "1", "reason": "[red]\x1b"},
        {"id": "2", "reason": None},
    ]
    print_records(records, as_json=False, none="nothing")
    printed = terminal.getvalue()
    assert "\x1b[31m" not in printed
    assert "[red]\\x1b" in printed
    assert "id" in printed.splitlines()[0]
    assert printed.splitlines()[2].split() == ["2", "-"]


WEBHOOKS = [
    {
        "gid": f"12046190000000{number}",
        "resource": "1204619000000099",
        "name": "The login forgets its visitors",
        "active": "yes",
        "last success": "1 day, 2:00:00",
        "retries": 12,
        "deletion": "2026-11-22 17:06:03",
        "secret": "yes",
    }
    for number in (10, 20)
]


def printed_at(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    print_records(WEBHOOKS, as_json=False, none="nothing")
    return re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()


@pytest.mark.parametrize("width", [76, 80, 120, 200])
def test_table_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed_at(monkeypatch, width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line.startswith("12")] == [
        record["gid"] for record in WEBHOOKS
    ]
    assert "…" not in "".join(lines)


def test_terminal_without_room_for_a_table_gets_a_field_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = printed_at(monkeypatch, 75)
    assert lines[0] == f"gid:          {WEBHOOKS[0]['gid']}"
    assert lines[8] == ""
    assert lines[9] == f"gid:          {WEBHOOKS[1]['gid']}"


def test_output_that_was_closed_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    print_records(WEBHOOKS, as_json=False, none="nothing")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (7, "7"),
        ('it\'s a \\ and a "quote"', 'it\'s a \\ and a "quote"'),
        ("Jürgen\x1b[2J", "Jürgen\\x1b[2J"),
        ("two\nlines", "two\\nlines"),
        ("\udcff\u202e", "\\udcff\\u202e"),
    ],
)
def test_only_what_cannot_be_printed_is_escaped(value: object, shown: str) -> None:
    assert on_one_line(value) == shown
