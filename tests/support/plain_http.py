"""What clients of plain HTTP need, and nothing more."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody: to read whom to trust takes a client 20 ms, and here nobody speaks TLS."""
