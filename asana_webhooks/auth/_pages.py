"""The plain pages that a browser is shown at the end of a login."""

from __future__ import annotations

import html

__all__ = ["PAGE_HEADERS", "render"]

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the page's address holds the code
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Log in to Asana</title>
<style>body {{ font: 1.2em sans-serif; margin: 4em auto; max-width: 30em }}</style>
{paragraphs}
</html>
"""


def render(*texts: str) -> str:
    """Return a page of these paragraphs, which are plain text."""
    escaped = (html.escape(text, quote=False) for text in texts)
    return _PAGE.format(paragraphs="\n".join(f"<p>{text}</p>" for text in escaped))
