"""How changes of the API are announced: ``Asana-Change`` in answers, until a call takes a side.

Source: https://developers.asana.com/docs/deprecations
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["announcement"]


def announcement(changes: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
    """Return the value of ``Asana-Change`` for a call with these headers, None for no header.

    ``changes`` maps the names of the changes to where they are explained. Those that the call
    names in ``Asana-Enable`` or ``Asana-Disable`` are not announced to it.
    """
    answered = ",".join(headers.get(name, "") for name in ("Asana-Enable", "Asana-Disable"))
    known = {name.strip() for name in answered.split(",")}
    return (
        ",".join(
            f"name={name};info={info};affected=true"
            for name, info in changes.items()
            if name not in known
        )
        or None
    )
