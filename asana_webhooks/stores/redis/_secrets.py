"""Secrets that the newest key has not encrypted, brought up to date."""

from __future__ import annotations

import msgspec

from .._encryption import EncryptedSecret, SecretCipher
from . import _scripts
from ._server import Server

__all__ = ["renew_secrets"]

_entries = msgspec.msgpack.Decoder(list[tuple[str, str, str, str, str]])


async def renew_secrets(server: Server, cipher: SecretCipher) -> None:
    """Encrypt with the newest key what is not, while other processes are at work.

    What one of them changes meanwhile stays as it is then, and is looked at again. Raises
    StoreError when a secret cannot be opened.
    """
    refused = True
    while refused:
        listed = _entries.decode(await server.run(_scripts.LIST_SECRETS))
        renewals = [renewal for entry in listed if (renewal := _renewal(entry, cipher))]
        parts = [part for renewal in renewals for part in renewal]
        done = await server.run(_scripts.RENEW_SECRETS, *parts) if renewals else 0
        refused = done < len(renewals)


def _renewal(entry: tuple[str, str, str, str, str], cipher: SecretCipher) -> tuple[str, ...] | None:
    """Return the arguments that renew a secret as it was listed, None when it is up to date."""
    route, _, _, fingerprint, ciphertext = entry
    renewed = cipher.reencrypt(route, EncryptedSecret(fingerprint, ciphertext or None))
    return (*entry, renewed.fingerprint, renewed.ciphertext or "") if renewed else None
