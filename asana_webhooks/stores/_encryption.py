"""Secrets at rest: how a store keeps them so that its file or server alone gives none away.

With keys, a secret is kept as two texts. The *ciphertext* is the secret, encrypted with the newest
key (Fernet: AES-128-CBC and HMAC-SHA256) together with its route, so that it is of no use at
another one. The *fingerprint* is a digest of both, by which a store compares secrets without
decrypting them; it reveals nothing of a secret that is random, as Asana's are. Without keys the
fingerprint is the secret itself. On disks and servers the two are ``secret`` and ``seal``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._options import NAMES, check_options, optional
from ..errors import StoreError

__all__ = ["EncryptedSecret", "SecretCipher", "report_unreadable", "webhook_name"]

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

NO_KEY = (
    "encryption_keys: an encryption key is 32 bytes in URL-safe base64; make one with: python -c"
    " 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)
KEY_LOST = (
    "a secret is encrypted with a key that is not among encryption_keys: add the key; if it is"
    " lost, begin with a new store and establish the webhooks again"
)

UNREADABLE = (
    "its secret cannot be decrypted or is damaged, so its deliveries are answered 503: restore a"
    " copy of the store, or delete the webhook and establish it again"
)
MISPLACED = (
    "a secret was encrypted for another route: somebody changed the store; restore a copy of it"
)


class EncryptedSecret(NamedTuple):
    """A secret as a store keeps it; ``ciphertext`` is None without encryption."""

    fingerprint: str
    ciphertext: str | None = None

    def __repr__(self) -> str:
        """Return what it is: without encryption the fingerprint is the secret."""
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return nothing: without encryption the fingerprint is the secret."""
        return []


class SecretCipher:
    """Encrypts and decrypts secrets with ``keys``, the newest first; without keys they stay clear.

    A key is 32 bytes in URL-safe base64, as ``cryptography.fernet.Fernet.generate_key`` makes it.
    Raises ValueError for anything else, TypeError for what is no list of texts, and ValueError when
    the extra ``crypto`` is not installed.
    """

    def __init__(self, keys: Sequence[str] | None = None) -> None:
        check_options({"encryption_keys": optional(NAMES)}, {"encryption_keys": keys})
        self._newest: Fernet | None = None
        self._all: MultiFernet | None = None
        if keys:
            self._newest, self._all = _fernets(keys)

    def encrypt(self, route: str, secret: str) -> EncryptedSecret:
        """Return what to keep of a secret of this route."""
        if self._newest is None:
            return EncryptedSecret(secret)
        ciphertext = self._newest.encrypt(_bytes(route, secret))
        return EncryptedSecret(self.fingerprint(route, secret), ciphertext.decode())

    def fingerprint(self, route: str, secret: str) -> str:
        """Return that by which a store finds the secret."""
        if self._newest is None:
            return secret
        return "sha256:" + hashlib.sha256(_bytes(route, secret)).hexdigest()

    def decrypt(self, route: str, kept: EncryptedSecret) -> str:
        """Return the secret. Raises StoreError when no key fits, or it is another route's."""
        if not isinstance(kept.fingerprint, str):  # damaged text, as a store found it
            raise StoreError(UNREADABLE)
        if kept.ciphertext is None:
            return kept.fingerprint
        secret, refusal = _secret_in(_decrypt(self._all, kept.ciphertext), route)
        if refusal:
            raise StoreError(refusal)  # with no secret in this frame, which a traceback may show
        return secret

    def reencrypt(self, route: str, kept: EncryptedSecret) -> EncryptedSecret | None:
        """Return the secret encrypted with the newest key, None when it is already.

        Raises StoreError like ``decrypt``.
        """
        secret = self.decrypt(route, kept)
        if self._newest is None or (kept.ciphertext and _decrypt(self._newest, kept.ciphertext)):
            return None
        return self.encrypt(route, secret)


def webhook_name(gid: object, resource: object) -> str:
    """Return what a webhook is called where its route must not be shown.

    What is no gid is left out: a damaged record may hold anything there.
    """
    of = f"of resource {resource}" if _is_gid(resource) else "of an unknown resource"
    return f"webhook {gid} {of}" if _is_gid(gid) else f"a webhook {of}"


def _is_gid(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w{1,64}", value, re.ASCII) is not None


def report_unreadable(unreadable: Iterable[tuple[str, object]], *, decrypted: int) -> None:
    """Say which webhooks' secrets cannot be decrypted, when a store is opened.

    ``unreadable`` are the webhooks' names, each with what stands for its ciphertext; ``decrypted``
    is how many secrets could be decrypted. Raises StoreError when that is none though ciphertexts
    are there: the key is lost. What is no ciphertext at all was damaged, and blames no key.
    """
    listed = list(unreadable)
    if not decrypted and any(_is_ciphertext(kept) for _, kept in listed):
        raise StoreError(KEY_LOST)
    for webhook, _ in listed:
        logger.error("%s is set aside: %s", webhook, UNREADABLE)


def _is_ciphertext(kept: object) -> bool:
    """Return whether this begins as Fernet's tokens do: with their version, and a time."""
    return isinstance(kept, str) and kept.startswith("gAAAA")


def _secret_in(text: str | None, route: str) -> tuple[str, str]:
    """Return the secret of this route in a decrypted text, or why there is none."""
    if text is None:
        return "", KEY_LOST
    owner, _, secret = text.partition("\n")
    return (secret, "") if owner == route else ("", MISPLACED)


def _bytes(route: str, secret: str) -> bytes:
    return f"{route}\n{secret}".encode(errors="surrogatepass")  # whatever a stranger sent


def _fernets(keys: Sequence[str]) -> tuple[Fernet, MultiFernet]:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        msg = "encryption needs the cryptography library: pip install 'asana-webhooks[crypto]'"
        raise ValueError(msg) from None
    try:
        fernets = [Fernet(key) for key in keys]
    except (ValueError, TypeError, AttributeError):
        raise ValueError(NO_KEY) from None
    return fernets[0], MultiFernet(fernets)


def _decrypt(fernet: Fernet | MultiFernet | None, ciphertext: str) -> str | None:
    if fernet is None:
        return None
    from cryptography.fernet import InvalidToken

    try:
        return fernet.decrypt(ciphertext).decode(errors="surrogatepass")
    except (InvalidToken, ValueError):  # the second for what is not even ASCII
        return None
