"""The command line: ``asana-webhooks``, or ``python -m asana_webhooks``.

It needs the extra ``cli``. Exit statuses:

===  ===============================================================================================
0    the command did all it should
1    it failed, which one line on standard error explains; or its question was answered no; or a
     signature does not fit (``verify``), a check failed (``doctor``), a delivery was not answered
     200 or 204 (``replay``)
2    it was called wrongly
130  it was interrupted (Ctrl-C; ``establish`` and ``ensure``: SIGTERM too), after cleaning up
===  ===============================================================================================
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
    from .app import cli

    cli(prog_name="asana-webhooks")
