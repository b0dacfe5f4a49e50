"""The scripts about dead letters."""

from __future__ import annotations

from . import CLOCK, DRAINS, QUEUES, READS, WRITES, Script

__all__ = ["DISCARD", "LETTERS", "REPLAY"]

# ARGV: limit, where to begin, where to end
LETTERS = Script(
    READS
    + """
return redis.call('XRANGE', KEYS[1] .. 'letters', ARGV[2], ARGV[3], 'COUNT', ARGV[1])
"""
)

# ARGV: the ids of letters
REPLAY = Script(
    WRITES
    + CLOCK
    + QUEUES
    + """
local letters, at, count = base .. 'letters', tick(), 0
for i = 1, #ARGV do
    local found = call('XRANGE', letters, ARGV[i], ARGV[i])
    if found[1] then
        local letter, delivery = found[1][2], add_number(at)
        local route, done, record = letter[2], letter[4], letter[8]
        call('HSET', base .. 'deliveries:' .. route, delivery, record)
        call('HSET', base .. 'tries:' .. route, delivery, string.format('%010d%010d', 0, done))
        enqueue(route, delivery, at)
        call('XDEL', letters, ARGV[i])
        count = count + 1
    end
end
call('INCRBY', base .. 'waiting', count)
return count
"""
)

# ARGV: the ids of letters
DISCARD = Script(
    DRAINS
    + """
local count = 0
for i = 1, #ARGV do
    count = count + redis.call('XDEL', KEYS[1] .. 'letters', ARGV[i])
end
return count
"""
)
