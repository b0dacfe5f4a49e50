"""A page on this machine that shows what comes, while it comes."""

from __future__ import annotations

from .server import Action, Inspector, handle_again, post_again

__all__ = ["Action", "Inspector", "handle_again", "post_again"]
