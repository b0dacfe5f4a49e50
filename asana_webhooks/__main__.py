"""``python -m asana_webhooks``: the same as ``asana-webhooks``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
