"""Every exception that the package raises on purpose.

::

    AsanaWebhooksError
    ├── ApiError                     Asana answered with an error status
    │   ├── BadRequestError          400
    │   ├── AuthenticationError      401
    │   │   ├── LoginRequiredError   nobody is logged in by OAuth, or the access was revoked
    │   │   └── AccountTokenError    there is no token for an account
    │   ├── PermissionDeniedError    403
    │   │   └── DuplicateWebhookError  403, a webhook for this resource and target exists
    │   ├── NotFoundError            404
    │   ├── RateLimitedError         429
    │   └── ServerError              5xx
    ├── ConnectionFailedError        Asana gave no answer
    ├── EstablishmentError           the webhook was not established
    │   ├── HandshakeMissingError    no handshake was completed at this receiver
    │   └── HandshakeMismatchError   Asana and this receiver hold different secrets
    ├── SignatureError               a signature does not fit its body and secret
    ├── DecodeError                  a body is not what Asana documents
    └── StoreError                   the store cannot do what it was asked

Mistakes in configuration are plain ``ValueError`` or ``TypeError``, raised before any I/O. No
message contains a token, a secret, a signature or the body of a delivery.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccountTokenError",
    "ApiError",
    "AsanaWebhooksError",
    "AuthenticationError",
    "BadRequestError",
    "ConnectionFailedError",
    "DecodeError",
    "DuplicateWebhookError",
    "EstablishmentError",
    "HandshakeMismatchError",
    "HandshakeMissingError",
    "LoginRequiredError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitedError",
    "ServerError",
    "SignatureError",
    "StoreError",
]


class AsanaWebhooksError(Exception):
    """The base of every error of this package."""


class ApiError(AsanaWebhooksError):
    """Asana answered a call with an error status.

    ``status`` is the HTTP status, ``errors`` Asana's messages in their order (empty when the body
    held none, as behind a proxy that answers HTML), ``help`` and ``phrase`` the first of each that
    Asana sent or None; a phrase comes with status 500 and is what Asana's support asks for.
    """

    hint: str = ""

    def __init__(
        self,
        status: int,
        errors: tuple[str, ...] = (),
        *,
        help: str | None = None,  # noqa: A002 - Asana's name for it
        phrase: str | None = None,
    ) -> None:
        self.status = status
        self.errors = errors
        self.help = help
        self.phrase = phrase
        super().__init__(status, errors)

    def __str__(self) -> str:
        """Return the status, what Asana said and what to do next, in one line."""
        said = "; ".join(self.errors) or "no explanation in the body"
        phrase = f" [phrase: {self.phrase}]" if self.phrase else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"Asana answered {self.status}: {said}{phrase}{hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[ApiError], args: tuple[Any, ...], fields: dict[str, Any]) -> ApiError:
    error = cls(*args)
    error.__dict__.update(fields)
    return error


class BadRequestError(ApiError):
    """400: a parameter is missing or wrong."""

    hint = "correct what Asana names, then call again"


class AuthenticationError(ApiError):
    """401: the token is missing, wrong, expired or revoked."""

    hint = "check the access token, or make a new one in Asana's developer console"


class LoginRequiredError(AuthenticationError):
    """Only a login helps: nobody is logged in by OAuth, the login failed, or access was revoked.

    ``status`` is that of Asana's answer, 401 where Asana was not asked.
    """

    hint = "log in again"

    def __str__(self) -> str:
        """Return what happened and what to do next; it may be that Asana answered nothing."""
        said = "; ".join(self.errors) or "the access is over"
        return f"{said} ({self.hint})"


class AccountTokenError(AuthenticationError):
    """The client's ``tokens`` gave none for an account, so Asana was not asked.

    ``is_final`` says that there is none, and not only now: ``tokens`` raised a LookupError.
    """

    is_final: bool = False
    hint = "have tokens= return one, or remove the account with client.remove_account(...)"

    def __str__(self) -> str:
        """Return why there is none and what to do next."""
        return f"{'; '.join(self.errors) or 'there is no token'} ({self.hint})"


class PermissionDeniedError(ApiError):
    """403: the token is good, but not for this."""

    hint = "check the token's scopes and its user's access to the resource"


class DuplicateWebhookError(PermissionDeniedError):
    """403: a webhook for the same resource and target exists already."""

    hint = "find it with get_webhooks, or let ensure() manage targets of its own"


class NotFoundError(ApiError):
    """404: no such object, or none that this token may see."""

    hint = "check the gid, and that the token's user may see what has it"


class RateLimitedError(ApiError):
    """429: too many calls. ``retry_after`` says for how many seconds to wait, None if unsaid."""

    retry_after: float | None = None
    hint = "slow down; calls that were refused count too"


class ServerError(ApiError):
    """5xx: Asana, or a proxy in front of it, failed."""

    hint = "try again later"


class ConnectionFailedError(AsanaWebhooksError):
    """Asana could not be reached, or hung up before its answer was complete.

    ``sent`` is False when there was no connection, so that Asana cannot have done anything.
    """

    sent: bool = True


class EstablishmentError(AsanaWebhooksError):
    """A webhook was not established; nothing of the attempt is left at Asana or in the store."""


class HandshakeMissingError(EstablishmentError):
    """Asana created no webhook because its handshake was not answered at this receiver.

    ``asana`` is what Asana said, ``seen`` what reached the receiver meanwhile: one line for each
    request for the route, whatever it lacked, and for each handshake for no route, with the status
    and the reason of its answer. It is empty when nothing arrived.
    """

    def __init__(
        self, message: str, *, asana: tuple[str, ...] = (), seen: tuple[str, ...] = ()
    ) -> None:
        self.asana = asana
        self.seen = seen
        super().__init__(message)


class HandshakeMismatchError(EstablishmentError):
    """Asana's secret is not the one that the handshake left here; the webhook was deleted."""


class SignatureError(AsanaWebhooksError):
    """A signature is missing, malformed, or does not fit the body and the secret."""


class DecodeError(AsanaWebhooksError):
    """A body is not JSON, or not of the shape that Asana documents."""


class StoreError(AsanaWebhooksError):
    """The store is closed, full, broken, or refuses to open; the message names the remedy."""
