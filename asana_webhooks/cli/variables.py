"""The variables of the environment that more than one part of the command line knows."""

from __future__ import annotations

__all__ = ["LOGIN_FILE_VARIABLE", "SECRET_VARIABLE", "STORE_VARIABLE"]

LOGIN_FILE_VARIABLE = "ASANA_WEBHOOKS_LOGIN_FILE"
SECRET_VARIABLE = "ASANA_CLIENT_SECRET"  # noqa: S105 - the name of a variable

STORE_VARIABLE = "ASANA_WEBHOOKS_STORE"
"""Has the store's URL, which may hold a password."""
