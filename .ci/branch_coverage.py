"""Fail unless the modules that decide what is safe are covered in every branch."""

import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

WHOLE = (
    "asana_webhooks/signature.py",
    "asana_webhooks/protocol.py",
    "asana_webhooks/_endpoint.py",
    "asana_webhooks/_establish.py",
    "asana_webhooks/stores/*.py",  # and in the folders below
)


def main() -> int:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        write = ("-m", "coverage", "json", "-q", "--fail-under=0", "-o", report)
        subprocess.run([sys.executable, *write], check=True)
        files = json.loads(report.read_text())["files"]
    missing = [pattern for pattern in WHOLE if not any(fnmatch(name, pattern) for name in files)]
    for pattern in missing:
        print(f"{pattern} is no module that was measured")
    partial = {
        name: data["summary"]["percent_covered"]
        for name, data in files.items()
        if any(fnmatch(name, pattern) for pattern in WHOLE)
        and (data["missing_lines"] or data["missing_branches"])
    }
    for name, percent in sorted(partial.items()):
        print(f"{name}: {percent:.1f} %, must be 100 %")
    return 1 if partial or missing else 0


if __name__ == "__main__":
    sys.exit(main())
