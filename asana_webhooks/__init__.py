"""Asana webhooks for asyncio: the handshake, the signatures and the events, with nothing lost."""

__version__ = "0.1.0"
