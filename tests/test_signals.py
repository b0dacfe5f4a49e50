"""Signals that end a program, as the process is sent them."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from conftest import guard

from asana_webhooks import _signals as module
from asana_webhooks._signals import stopping, terminable


async def test_signals_are_as_before_in_the_end() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopping() as told:
        signal.raise_signal(signal.SIGTERM)
        with guard():
            await told.once.wait()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not told.twice.is_set()


@pytest.mark.parametrize("interrupts", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts_work_that_cleans_up(interrupts: Any) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, interrupts)
    try:
        with pytest.raises(KeyboardInterrupt), terminable():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before[0]
    finally:
        signal.signal(signal.SIGINT, before[1])


async def test_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_second_signal_is_told_to_who_cleans_up() -> None:
    with stopping() as told:
        for event in (told.once, told.twice):
            signal.raise_signal(signal.SIGTERM)
            with guard():
                await event.wait()


async def test_next_signal_kills_by_the_time_that_this_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(
        module.logger, "info", lambda _: said.append(signal.getsignal(signal.SIGTERM))
    )
    with stopping(kills=True) as told, guard():
        signal.raise_signal(signal.SIGTERM)
        await told.once.wait()
    assert said == [signal.SIG_DFL]


async def test_second_signal_kills_where_nothing_is_to_clean_up() -> None:
    own = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    with stopping(own, kills=True) as told:
        assert told.once is own
        signal.raise_signal(signal.SIGTERM)
        with guard():
            await own.wait()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


async def test_all_who_watch_are_told_and_the_last_leaves_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as first:
        with stopping(kills=True) as second:
            signal.raise_signal(signal.SIGTERM)
            with guard():
                await first.once.wait()
                await second.once.wait()
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # the first cleans up
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
