"""Which scope a call needs.

The scopes are those that Asana's OpenAPI description documents. Calls for which it names none,
such as those on sections and events, need none here.

Source: https://developers.asana.com/docs/oauth-scopes
"""

from __future__ import annotations

__all__ = ["KNOWN", "required_scope"]

GRANULAR = frozenset(
    {
        *("projects:read", "projects:write", "projects:delete"),
        *("stories:read", "stories:write", "stories:delete"),
        *("tags:read", "tags:write"),
        *("tasks:read", "tasks:write", "tasks:delete"),
        *("teams:read", "users:read", "workspaces:read"),
        *("webhooks:read", "webhooks:write", "webhooks:delete"),
    }
)
KNOWN = GRANULAR | {"default", "openid", "email", "profile"}
"""What an app may ask for; ``default`` stands for everything."""

VERBS = {"GET": "read", "DELETE": "delete"}
MEANT = {"subtasks": "tasks", "addTask": "tasks"}
COLLECTIONS = frozenset(scope.partition(":")[0] for scope in GRANULAR) | {"sections", "events"}


def required_scope(method: str, path: str) -> str | None:
    """Return the scope that a call to this path needs, None when any will do."""
    words = [MEANT.get(word, word) for word in path.split("/")]
    collection = next((word for word in reversed(words) if word in COLLECTIONS), "")
    scope = f"{collection}:{VERBS.get(method, 'write')}"
    return scope if scope in GRANULAR else None
