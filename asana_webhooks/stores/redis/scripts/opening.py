"""The scripts that open the store."""

from __future__ import annotations

from . import CLOCK, DRAINS, Script

__all__ = ["OPEN"]

# ARGV: the version of the layout. Returns the one that the server's keys have.
OPEN = Script(
    DRAINS
    + CLOCK
    + """
tick()
call('SET', base .. 'version', ARGV[1], 'NX')
return tonumber(call('GET', base .. 'version'))
"""
)
