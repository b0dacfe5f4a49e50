"""What opening the store does about secrets that the newest key did not seal."""

from __future__ import annotations

from .._encryption import EncryptedSecret, SecretCipher
from . import sql
from ._server import Server

__all__ = ["renew_seals"]


async def renew_seals(server: Server, cipher: SecretCipher) -> None:
    """Seal with the newest key what is not, unless another process changed it meanwhile.

    Raises StoreError when a secret cannot be opened.
    """
    await server.fetch(sql.PURGE)
    # first the candidates: one that is confirmed meanwhile is found among the others
    for listing, change in (
        (sql.LIST_CANDIDATES, sql.RESEAL_CANDIDATE),
        (sql.LIST_CONFIRMED, sql.RESEAL_CONFIRMED),
    ):
        for id_, route, *kept in await server.fetch(listing):
            if renewed := cipher.reencrypt(route, EncryptedSecret(*kept)):
                await server.fetch(change, id_, *kept, *renewed)
