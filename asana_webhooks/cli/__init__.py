"""The command line: ``asana-webhooks``, or ``python -m asana_webhooks``.

Exit status: 0 when the command did all it should, 1 when it failed, 2 when it was called wrongly,
130 when it was interrupted. It needs the extra ``cli``.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]

EXTRA_MISSING = (
    "asana-webhooks: the command line needs click and rich;"
    ' install them with: pip install "asana-webhooks[cli]"'
)


def main() -> None:
    """Run the command that the arguments name, then exit with its status."""
    try:
        for library in ("click", "rich"):
            importlib.import_module(library)
    except ImportError:
        sys.exit(EXTRA_MISSING)
    from .commands import cli

    cli(prog_name="asana-webhooks")
