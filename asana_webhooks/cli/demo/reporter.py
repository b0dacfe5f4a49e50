"""Prints steps and checks: in colour on a terminal, else as plain ASCII lines."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console
from rich.text import Text

__all__ = ["CheckFailed", "Reporter"]


class CheckFailed(Exception):  # noqa: N818 - it is what was found, not a failure of this code
    """A claim does not hold."""


class Reporter:
    """Prints numbered steps, and counts the checks that passed in each.

    ``place`` names the step that is told at the moment. Without colour when the variable NO_COLOR
    is set.
    """

    def __init__(self, stream: TextIO) -> None:
        self.place = "the beginning"
        self._checks: dict[str, int] = {}
        self._console = Console(
            file=stream,
            color_system=None if os.environ.get("NO_COLOR") else "auto",
            highlight=False,
            soft_wrap=True,
        )
        fancy = self._console.is_terminal and not self._console.options.ascii_only
        self._tick, self._cross, self._arrow = "✓✗→" if fancy else ("ok   ", "wrong", "event")

    def title(self, text: str) -> None:
        """Print the title."""
        self._print((text, "bold"))

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._checks[title] = 0
        number = len(self._checks)
        self.place = f"step {number} ({title})"
        self._print()
        self._print((f"{number}. ", "cyan"), (title, "bold"))

    def say(self, text: str) -> None:
        """Tell what is being done."""
        self._print("   ", (text, "dim"))

    def event(self, text: str) -> None:
        """Tell what has reached a handler."""
        self._print("   ", (self._arrow, "magenta"), "  ", text)

    def check(self, claim: str, *, that: bool, but: str = "it is not so") -> None:
        """Tell a claim if it holds. Raises CheckFailed, with what is the case instead, if not."""
        if not that:
            msg = f"claimed: {claim}; found: {but}"
            raise CheckFailed(msg)
        title = next(reversed(self._checks))
        self._checks[title] += 1
        self._print("   ", (self._tick, "green"), "  ", claim)

    def failure(self, reason: str) -> None:
        """Print why a check failed, as the end."""
        self._print("   ", (self._cross, "bold red"), "  ", reason)

    def summary(self, seconds: float) -> None:
        """Print the number of checks that passed, for each step and for all, as the end."""
        self._print()
        for title, count in self._checks.items():
            self._print((self._tick, "green"), f"  {title} ", (f"({count} checks)", "dim"))
        total = f"All {sum(self._checks.values())} checks passed, in {seconds:.1f} s."
        self._print((total, "bold green"))

    def _print(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts))
