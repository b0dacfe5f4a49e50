"""Secrets that the newest key has not encrypted, brought up to date."""

from __future__ import annotations

from ...errors import StoreError
from .._encryption import EncryptedSecret, SecretCipher, report_unreadable, webhook_name
from . import _scripts
from ._server import Server

__all__ = ["renew_secrets"]

Entry = list[bytes]
"""Route, fields of fingerprint and ciphertext, fingerprint, ciphertext; gid and resource."""


async def renew_secrets(server: Server, cipher: SecretCipher) -> None:
    """Encrypt with the newest key what is not, while other processes are at work.

    What one of them changes meanwhile stays as it is then, and is looked at again. What cannot be
    decrypted is said and left. Raises StoreError when nothing that is encrypted can be.
    """
    while True:
        listed: list[Entry] = await server.run(_scripts.LIST_SECRETS)
        renewals, decrypted, unreadable = _renewals(listed, cipher)
        parts = [part for renewal in renewals for part in renewal]
        done = await server.run(_scripts.RENEW_SECRETS, *parts) if renewals else 0
        if done >= len(renewals):
            report_unreadable(unreadable, decrypted=decrypted)
            return


def _renewals(
    listed: list[Entry], cipher: SecretCipher
) -> tuple[list[list[bytes | str]], int, list[tuple[str, str]]]:
    """Return the arguments that renew what is not up to date.

    And how many were decrypted, and the names of webhooks whose secret cannot be, each with its
    ciphertext.
    """
    renewals: list[list[bytes | str]] = []
    decrypted, unreadable = 0, list[tuple[str, str]]()
    for *as_listed, gid, resource in listed:
        route, _, _, fingerprint, ciphertext = as_listed
        try:
            kept = EncryptedSecret(fingerprint.decode(), ciphertext.decode() or None)
            renewed = cipher.reencrypt(route.decode(), kept)
        except (StoreError, UnicodeDecodeError):
            names = (each.decode(errors="replace") or None for each in (gid, resource))
            unreadable.append((webhook_name(*names), ciphertext.decode(errors="replace")))
            continue
        decrypted += kept.ciphertext is not None
        if renewed is not None:
            renewals.append([*as_listed, renewed.fingerprint, renewed.ciphertext or ""])
    return renewals, decrypted, unreadable
