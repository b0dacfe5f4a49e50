"""Logins at the local Asana, whose users consent at once."""

from __future__ import annotations

import aiohttp

from asana_webhooks.auth import AsanaOAuth, Token
from asana_webhooks.simulator import AsanaSimulator

CLIENT_ID, CLIENT_SECRET = "the-app", "s3cret"
BACK = "http://127.0.0.1:1/back"


async def log_in(asana: AsanaSimulator) -> Token:
    """Return a token of the user ``asana.oauth.user``, as the app gets it."""
    oauth = AsanaOAuth(CLIENT_ID, CLIENT_SECRET, redirect_uri=BACK, base_url=asana.base_url)
    authorization = oauth.authorization_url()
    async with (
        aiohttp.ClientSession() as session,
        session.get(authorization.url, allow_redirects=False) as response,
    ):
        return await oauth.fetch_token(response.headers["Location"], authorization)
