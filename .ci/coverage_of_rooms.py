"""Fail unless the rooms that decide what is safe are covered in every branch."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

WHOLE = (
    "asana_webhooks/signature.py",
    "asana_webhooks/protocol.py",
    "asana_webhooks/_endpoint.py",
    "asana_webhooks/_establish.py",
    "asana_webhooks/stores/_encryption.py",
    "asana_webhooks/stores/",
)


def main() -> int:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", report], check=True)
        files = json.loads(report.read_text())["files"]
    rooms = {name: data for name, data in files.items() if name.startswith(WHOLE)}
    partial = {
        name: data["summary"]["percent_covered"]
        for name, data in rooms.items()
        if data["missing_lines"] or data["missing_branches"]
    }
    for name, percent in sorted(partial.items()):
        print(f"{name}: {percent:.1f} %, must be 100 %")
    return 1 if partial or not rooms else 0


if __name__ == "__main__":
    sys.exit(main())
