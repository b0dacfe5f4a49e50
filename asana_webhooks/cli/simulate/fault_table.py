"""The faults of the local Asana with what each stands for, as its own documentation has them."""

from __future__ import annotations

import re

__all__ = ["read_tables"]

RULER = r"^(=+(?: +=+)+)\n"
TABLE = re.compile(rf"{RULER}(?:.+\n{RULER})?((?:[^=].*\n)+){RULER}", re.MULTILINE)


def read_tables(text: str, *names: str) -> list[dict[str, str]]:
    """Return the rows of all simple tables in a reStructuredText, with these names for columns.

    A row without a first cell continues the one above it.
    """
    rows: list[dict[str, str]] = []
    for table in TABLE.finditer(text):
        starts = [found.start() for found in re.finditer("=+", table[1])]
        columns = [slice(*ends) for ends in zip(starts, [*starts[1:], None], strict=True)]
        for line in table[3].splitlines():
            cells = [line[column].strip().replace("``", "") for column in columns]
            if cells[0]:
                rows.append(dict.fromkeys(names, ""))
            for name, cell in zip(names, cells, strict=True):
                rows[-1][name] = f"{rows[-1][name]} {cell}".strip()
    return rows
