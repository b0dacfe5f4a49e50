"""Runs a program whose calls to the internet go to a server of the test: redirected.py URL FILE.

The libraries of chat services all call through aiohttp, and each has another way to be given
another address, which an example does not use.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

_SCHEMES = {"https": "http", "wss": "ws"}


def redirect(server: URL) -> None:
    """Have each session of aiohttp call this server in place of any that is not on this machine."""
    request = aiohttp.ClientSession._request

    async def redirected(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        wanted = self._build_url(url)
        if wanted.host != server.host:
            scheme = _SCHEMES.get(wanted.scheme, wanted.scheme)
            wanted = wanted.with_scheme(scheme).with_host("127.0.0.1").with_port(server.port)
        return await request(self, method, wanted, **options)

    aiohttp.ClientSession._request = redirected  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    redirect(URL(sys.argv[1]))
    sys.path[0] = str(Path(sys.argv[2]).parent)
    runpy.run_path(sys.argv[2], run_name="__main__")
