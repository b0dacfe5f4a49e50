"""Sign and verify: hex HMAC-SHA256 over the raw body, keyed with the secret's bytes.

Source: https://developers.asana.com/docs/webhooks-guide#security
"""

from __future__ import annotations

import binascii
import hmac

from .errors import SignatureError

__all__ = ["parse_signature", "sign", "verify_signature"]


def digest(body: bytes, secret: str) -> bytes:
    """Return the 32 bytes that ``X-Hook-Signature`` carries in hex."""
    return hmac.digest(secret.encode("utf-8", "surrogatepass"), body, "sha256")


def sign(body: bytes, secret: str) -> str:
    """Return the value of ``X-Hook-Signature`` for this body: 64 lower-case hex digits.

    Raises TypeError for an argument of another type.

    Source: https://developers.asana.com/docs/webhooks-guide#security
    """
    _check_types(body, secret)
    return digest(body, secret).hex()


def parse_signature(signature: str) -> bytes | None:
    """Return the 32 bytes that 64 hex digits of either case stand for, None for other text."""
    if len(signature) != 64:
        return None
    try:
        return binascii.unhexlify(signature)
    except ValueError:  # not hex, or not ASCII
        return None


def verify_signature(body: bytes, signature: str | None, secret: str) -> None:
    """Return when the signature was made from exactly this body with this secret.

    ``body`` must be the bytes as they arrived: JSON that was parsed and written again does not
    verify. ``signature`` is the header's value, None when there is none. The comparison takes
    constant time. Raises SignatureError, and nothing else, for whatever is not the right signature;
    TypeError for an argument of another type.

    Source: https://developers.asana.com/docs/webhooks-guide#security
    """
    _check_types(body, secret, signature)
    given = None if signature is None else parse_signature(signature)
    if given is None:
        msg = "the signature is not 64 hex digits; pass the X-Hook-Signature header as it came"
        raise SignatureError(msg)
    if not hmac.compare_digest(digest(body, secret), given):
        msg = "the signature does not fit; pass the raw body, and the secret of this webhook"
        raise SignatureError(msg)


def _check_types(body: object, secret: object, signature: object = None) -> None:
    if not isinstance(body, bytes | bytearray | memoryview):
        msg = f"body must be the raw bytes, not {type(body).__name__}"
        raise TypeError(msg)
    if not isinstance(secret, str):
        msg = f"secret must be a text, not {type(secret).__name__}"
        raise TypeError(msg)
    if not isinstance(signature, str | None):
        msg = f"signature must be the header's text, or None, not {type(signature).__name__}"
        raise TypeError(msg)
