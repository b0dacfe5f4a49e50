"""Log a user in at this machine: a browser goes to Asana, and comes back to a server here.

The server listens on 127.0.0.1 only, for one redirect only. Source: RFC 8252, 7.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from ..errors import LoginRequiredError
from ._oauth import AsanaOAuth
from ._pages import PAGE_HEADERS, render
from ._tokens import Token, belongs_to

__all__ = ["login"]


async def login(
    oauth: AsanaOAuth,
    show: Callable[[str], Awaitable[object] | object],
    *,
    timeout: float = 300.0,
) -> Token:
    """Return the token of the user who logs in with a browser on this machine, saved.

    ``show`` is called with the URL that the browser must open: ``print``, ``webbrowser.open``, or
    a coroutine function. The redirect comes to ``oauth.redirect_uri``, which must be like
    ``http://127.0.0.1:8765/callback`` and registered with the app; port 0 takes any free one.
    The user has ``timeout`` seconds. A redirect of another login is answered and ignored.

    Raises LoginRequiredError when the user refuses or takes too long, ValueError for another
    ``redirect_uri``, OSError when the port is taken, and what ``fetch_token`` raises.
    """
    redirect = _check(oauth.redirect_uri)
    awaited = _Redirect()
    async with _listen(redirect, awaited) as port:
        here = redirect._replace(netloc=f"{redirect.hostname}:{port}").geturl()
        authorization = oauth.authorization_url(redirect_uri=here)
        awaited.state = authorization.state
        shown = show(authorization.url)
        if inspect.isawaitable(shown):
            await shown
        answer = await awaited.within(timeout)
    return await oauth.fetch_token(answer, authorization)


def _check(redirect_uri: str) -> SplitResult:
    url = urlsplit(redirect_uri)
    with contextlib.suppress(ValueError):  # a port that is no number
        local = url.hostname in ("127.0.0.1", "localhost")
        if url.scheme == "http" and local and url.port is not None:
            return url
    msg = "to log in here, redirect_uri must be like http://127.0.0.1:8765/callback"
    raise ValueError(msg)


class _Redirect:
    """Waits for the first redirect that carries the state of this login."""

    def __init__(self) -> None:
        self.state = ""  # unknown until the port is; to an empty one nothing belongs
        self._url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def within(self, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                return await self._url
        except TimeoutError:
            said = f"nobody logged in within {seconds:g} seconds"
            raise LoginRequiredError(401, (said,)) from None

    async def handle(self, request: web.Request) -> web.Response:
        url = f"http://127.0.0.1{request.path_qs}"  # whatever the header Host says
        if not belongs_to(url, self.state):
            return _page(400, "This is not the login that the program waits for.")
        if self._url.done():
            return _page(409, "This login is over already.")
        self._url.set_result(url)
        if "error" in request.query:
            return _page(200, "The login was refused.")
        return _page(200, "Asana's answer has arrived.")


@contextlib.asynccontextmanager
async def _listen(redirect: SplitResult, awaited: _Redirect) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get(redirect.path or "/", awaited.handle, allow_head=False)
    # An access log would hold the code.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", redirect.port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


_HEADERS = {**PAGE_HEADERS, "Connection": "close"}


def _page(status: int, text: str) -> web.Response:
    return web.Response(
        status=status,
        text=render(text, "You may close this window and go back to the program."),
        content_type="text/html",
        headers=_HEADERS,
    )
