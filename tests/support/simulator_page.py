"""The tables of docs/simulator.md, made from the local Asana's own.

``python tests/support/simulator_page.py`` writes them into the page.
"""

import re
from collections import defaultdict
from pathlib import Path

from asana_webhooks.simulator.app import KINDS, OPERATIONS
from asana_webhooks.simulator.operations import DESCRIBED, OLD_PATHS

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"
BORDERS = ("<!-- made from the code -->", "<!-- until here -->")
OTHERS = {
    "createBatchRequest",
    "createWebhook",
    "deleteWebhook",
    "getEvents",
    "getWebhook",
    "getWebhooks",
    "updateWebhook",
}
"""Operations that are served by what holds more than a state."""


def operations() -> str:
    """Return the table of the groups of operations: what is served of each, and what is not."""
    groups: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name, each in DESCRIBED.items():
        groups[each.group][name not in OPERATIONS and name not in OTHERS].append(f"`{name}`")
    served = sum(len(yes) for yes, _ in groups.values())
    lines = [
        f"{served} of the {len(DESCRIBED)} operations are served.",
        "",
        "| group | served | answered 501 |",
        "|---|---|---|",
    ]
    lines += [
        f"| {group} | {' '.join(yes) or 'none'} | {' '.join(no) or 'none'} |"
        for group, (yes, no) in sorted(groups.items(), key=lambda each: (not each[1][0], each[0]))
    ]
    old = (f"`{method} {path}`" for method, path in OLD_PATHS)
    return "\n".join([*lines, "", f"Old paths that are served too: {', '.join(old)}."])


def records() -> str:
    """Return the table of the records: their fields, of which those in italics can be written."""
    lines = ["| record | fields |", "|---|---|"]
    for name, kind in sorted(KINDS.items()):
        fields = (f"*{each}*" if each in kind.writable else each for each in kind.fields)
        lines.append(f"| {name} | {', '.join(fields)} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """Return the page with the tables as they are now."""
    made = f"{BORDERS[0]}\n\n{operations()}\n\n## Records\n\n{TELLS}\n\n{records()}\n\n{BORDERS[1]}"
    return re.sub(f"{BORDERS[0]}.*{BORDERS[1]}", lambda _: made, page, flags=re.DOTALL)


TELLS = (
    "Each record has `gid` and `resource_type` besides. Fields in italics can be written by calls."
)

if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
