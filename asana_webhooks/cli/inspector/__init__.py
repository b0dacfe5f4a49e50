"""A page on this machine that shows what comes, while it comes."""

from __future__ import annotations

from .actions import Action, handle_again, post_again
from .server import Inspector

__all__ = ["Action", "Inspector", "handle_again", "post_again"]
