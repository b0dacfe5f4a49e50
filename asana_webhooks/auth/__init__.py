"""OAuth 2 for programs that act for users of Asana: log in, renew, save, log out.

An ``AsanaOAuth`` is an ``httpx.Auth``, so it goes where a token goes::

    oauth = AsanaOAuth(client_id, client_secret, token=TokenFile("asana-token.json"))
    client = WebhooksClient(oauth, public_url="https://hooks.example.com/asana")

An ``OAuthApp`` is one for many accounts, and goes where ``tokens`` go.

Needs the extra ``oauth``. Source: https://developers.asana.com/docs/oauth
"""

from __future__ import annotations

from ._app import OAuthApp
from ._files import TokenFile
from ._login_app import LoginApp
from ._loopback import login
from ._oauth import AsanaOAuth
from ._tokens import OUT_OF_BAND, Authorization, Token

__all__ = [
    "OUT_OF_BAND",
    "AsanaOAuth",
    "Authorization",
    "LoginApp",
    "OAuthApp",
    "Token",
    "TokenFile",
    "login",
]
