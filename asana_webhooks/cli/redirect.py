"""Leads a Python program to the local Asana: ``simulate --run`` copies it as ``sitecustomize``.

Programs whose libraries read no variable of a proxy or of certificates need it, such as those with
Asana's own client. It stands alone and imports the standard library only, because it runs in
whatever Python the program has.
"""

import json
import socket
import ssl
import sys
from importlib import util
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def redirect(*, host: str, address: str, port: int, authorities: str) -> None:
    """Lead port 443 of a host to an address, and trust the authorities of a file besides others."""
    look_up, load = socket.getaddrinfo, ssl.SSLContext.load_verify_locations

    def getaddrinfo(name: Any, service: Any, *args: Any, **options: Any) -> Any:
        asked = name.decode("latin-1") if isinstance(name, bytes) else name
        if asked == host and str(service) in {"443", "https"}:
            name, service = address, port
        return look_up(name, service, *args, **options)

    def load_verify_locations(self: ssl.SSLContext, *args: Any, **options: Any) -> None:
        load(self, *args, **options)
        load(self, authorities)

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    ssl.SSLContext.load_verify_locations = load_verify_locations  # type: ignore[method-assign]


def run_next(folder: Path) -> None:
    """Run the ``sitecustomize`` that this one, in its folder, hides from Python."""
    others = [each for each in sys.path if Path(each) != folder]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(util.module_from_spec(spec))


if __name__ == "sitecustomize":
    redirect(**json.loads(Path(__file__).with_name("target.json").read_text(encoding="utf-8")))
    run_next(Path(__file__).parent)
