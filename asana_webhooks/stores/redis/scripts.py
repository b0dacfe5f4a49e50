"""What RedisStore does, in Lua: one script for each call of the contract.

The only declared key is the prefix, with the hash tag that keeps all other keys in its slot: which
route a claim finds cannot be declared. Times are microseconds of the store's clock.

The clock is the server's, and never goes back: a step backwards, or a failover to a server whose
clock is behind, is added to all later readings. Scripts that empty the inbox also run when the
server's memory is full.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = [
    "ACK",
    "ADD_CANDIDATE",
    "BURY",
    "CHANGE",
    "CLAIM",
    "CONFIRM",
    "DROP",
    "FINISH",
    "GET_ROUTES",
    "LETTERS",
    "LIST_ROUTES",
    "OPEN",
    "PUT",
    "RELEASE",
    "RENEW",
    "REPLAY",
    "RESERVE",
    "RETIRE",
    "WAITING",
    "Script",
]


@dataclass(frozen=True)
class Script:
    """A script, and the digest by which a server knows it once it has run it."""

    text: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())


READS = "#!lua flags=no-writes\n"
WRITES = "#!lua\n"
DRAINS = "#!lua flags=allow-oom\n"

CLOCK = """
local base, call = KEYS[1], redis.call

local function text(number)
    return string.format('%.0f', number)
end

local function reading()
    local time = redis.call('TIME')
    local known = call('HMGET', base .. 'clock', 'last', 'ahead')
    return time[1] * 1000000 + time[2], tonumber(known[1] or 0), tonumber(known[2] or 0)
end

local function now()
    local time, last, ahead = reading()
    return math.max(time + ahead, last)
end

local function tick()
    local time, last, ahead = reading()
    ahead = math.max(ahead, last - time)
    call('HSET', base .. 'clock', 'last', text(time + ahead), 'ahead', text(ahead))
    return time + ahead
end
"""

ROUTES = """
local function find(id, at)
    local fields = call('HGETALL', base .. 'route:' .. id)
    local route = {}
    for i = 1, #fields, 2 do
        route[fields[i]] = fields[i + 1]
    end
    if route.id and not (route.expires and tonumber(route.expires) <= at) then
        return route
    end
end

local function find_slot(route, secret)
    local slot = 1
    while route['candidate' .. slot] ~= secret and route['candidate' .. slot] do
        slot = slot + 1
    end
    return slot, route['candidate' .. slot] == secret
end

local function unlist(id, resource)
    call('ZREM', base .. 'routes', id)
    call('ZREM', base .. 'resource:' .. resource, id)
end
"""

FORGETTING = """
local function drop_held(id, slot)
    local key = base .. 'held:' .. slot .. ':' .. id
    local held = call('LRANGE', key, 0, -1)
    for _, delivery in ipairs(held) do
        call('HDEL', base .. 'deliveries:' .. id, delivery)
    end
    call('DECRBY', base .. 'waiting', #held)
    call('DEL', key)
end

local function drop_candidates(route)
    local slot = 1
    while route['candidate' .. slot] do
        drop_held(route.id, slot)
        call('HDEL', base .. 'route:' .. route.id, 'candidate' .. slot)
        slot = slot + 1
    end
    call('ZREM', base .. 'expiries', route.id)
end

local function forget(route)
    drop_candidates(route)
    unlist(route.id, route.resource)
    call('DEL', base .. 'route:' .. route.id)
end

local function purge(at)
    for _, id in ipairs(call('ZRANGEBYSCORE', base .. 'expiries', '-inf', text(at))) do
        forget(find(id, 0) or {id = id, resource = ''})
    end
end
"""

QUEUES = """
local function count_waiting()
    return tonumber(call('GET', base .. 'waiting') or 0)
end

local function add_number()
    return string.format('%016d', call('INCR', base .. 'number'))
end

local function offer(route, at)
    if call('HEXISTS', base .. 'leases', route) == 0 then
        call('ZADD', base .. 'agenda', 'LT', text(at), route)
    end
end

local function enqueue(route, delivery, at)
    call('ZADD', base .. 'queue:' .. route, text(at), delivery)
    offer(route, at)
end
"""

LEASES = """
local function is_leased(route, fence)
    return call('HGET', base .. 'leases', route) == fence
end

local function remove(route, first, last)
    local gone = 0
    for i = first, last do
        if call('ZREM', base .. 'queue:' .. route, ARGV[i]) == 1 then
            call('HDEL', base .. 'deliveries:' .. route, ARGV[i])
            call('HDEL', base .. 'tries:' .. route, ARGV[i])
            gone = gone + 1
        end
    end
    if gone > 0 then
        call('DECRBY', base .. 'waiting', gone)
    end
    return gone
end

local function give_back(route)
    call('HDEL', base .. 'leases', route)
    local first = call('ZRANGE', base .. 'queue:' .. route, 0, 0, 'WITHSCORES')
    if first[1] then
        call('ZADD', base .. 'agenda', first[2], route)
    else
        call('ZREM', base .. 'agenda', route)
    end
end
"""

LETTER = """
local function bury(route, done, note, record)
    call('XADD', base .. 'letters', '*',
        'route', route, 'done', done, 'note', note, 'record', record)
end
"""

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

# ARGV: id, ttl, sole, place, resource, created_at, then other fields and their values
RESERVE = Script(
    WRITES
    + CLOCK
    + ROUTES
    + FORGETTING
    + QUEUES
    + """
local id, place, resource = ARGV[1], ARGV[4], ARGV[5]
local key, of_resource = base .. 'route:' .. id, base .. 'resource:' .. resource
local at = tick()
purge(at)
if call('EXISTS', key) == 1 then
    return 0
end
if ARGV[3] == '1' then
    for _, other in ipairs(call('ZRANGE', of_resource, 0, -1)) do
        if call('HGET', base .. 'route:' .. other, 'place') == place then
            return 0
        end
    end
end
local expires, number = text(at + ARGV[2]), add_number()
call('HSET', key, 'id', id, 'state', 'reserved', 'place', place, 'resource', resource,
    'created_at', ARGV[6], 'expires', expires, 'number', number)
for i = 7, #ARGV, 2 do
    call('HSET', key, ARGV[i], ARGV[i + 1])
end
call('ZADD', base .. 'routes', number, id)
call('ZADD', of_resource, number, id)
call('ZADD', base .. 'expiries', expires, id)
return 1
"""
)

# ARGV: ids. Returns a packed map, or nil, for each.
GET_ROUTES = Script(
    READS
    + CLOCK
    + ROUTES
    + """
local at, found = now(), {}
for i = 1, #ARGV do
    local route = find(ARGV[i], at)
    found[i] = route and cmsgpack.pack(route) or false
end
return found
"""
)

# ARGV: nothing for all routes, or a resource
LIST_ROUTES = Script(
    READS
    + CLOCK
    + ROUTES
    + """
local at, found = now(), {}
local index = ARGV[1] and 'resource:' .. ARGV[1] or 'routes'
for _, id in ipairs(call('ZRANGE', base .. index, 0, -1)) do
    local route = find(id, at)
    if route then
        found[#found + 1] = cmsgpack.pack(route)
    end
end
return found
"""
)

# ARGV: id, secret, how many candidates there may be
ADD_CANDIDATE = Script(
    WRITES
    + CLOCK
    + ROUTES
    + """
local route = find(ARGV[1], now())
if not route then
    return 0
end
local slot, known = find_slot(route, ARGV[2])
if known or route.secret == ARGV[2] then
    return 1
end
if route.state ~= 'reserved' or slot > tonumber(ARGV[3]) then
    return 0
end
call('HSET', base .. 'route:' .. route.id, 'candidate' .. slot, ARGV[2])
return 1
"""
)

# ARGV: id, gid, secret
CONFIRM = Script(
    WRITES
    + CLOCK
    + ROUTES
    + FORGETTING
    + QUEUES
    + """
local at = tick()
local route = find(ARGV[1], at)
local slot, known = find_slot(route or {}, ARGV[3])
if not known then
    return 0
end
local key, held = base .. 'route:' .. route.id, base .. 'held:' .. slot .. ':' .. route.id
for _, delivery in ipairs(call('LRANGE', held, 0, -1)) do
    enqueue(route.id, delivery, at)
end
call('DEL', held)
drop_candidates(route)
call('HSET', key, 'state', 'confirmed', 'gid', ARGV[2], 'secret', ARGV[3])
call('HDEL', key, 'expires')
return 1
"""
)

# ARGV: id, field, and its value unless it shall be removed
CHANGE = Script(
    WRITES
    + CLOCK
    + ROUTES
    + """
if not find(ARGV[1], now()) then
    return 0
end
local key = base .. 'route:' .. ARGV[1]
if ARGV[3] then
    call('HSET', key, ARGV[2], ARGV[3])
else
    call('HDEL', key, ARGV[2])
end
return 1
"""
)

# ARGV: the route's id
RETIRE = Script(
    WRITES
    + CLOCK
    + ROUTES
    + """
local route = find(ARGV[1], now())
if not route or route.state ~= 'confirmed' then
    return 0
end
local key = base .. 'route:' .. route.id
call('HSET', key, 'state', 'retired')
call('HDEL', key, 'secret')
unlist(route.id, route.resource)
return 1
"""
)

# ARGV: id. Returns the packed map, or nil.
DROP = Script(
    DRAINS
    + CLOCK
    + ROUTES
    + FORGETTING
    + """
local route = find(ARGV[1], now())
if not route or route.state ~= 'reserved' then
    return false
end
forget(route)
return cmsgpack.pack(route)
"""
)

# ARGV: how many may wait, for how long digests are known, then for each delivery: route, digest,
# received_at, record, '=' and candidate or nothing, a letter's note or nothing.
# Returns a letter for each: k kept, n not, f full. A digest is forgotten an hour late, since the
# clocks of receivers may differ.
PUT = Script(
    WRITES
    + CLOCK
    + ROUTES
    + FORGETTING
    + QUEUES
    + LETTER
    + """
local at = tick()
local most, known_for = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept_for = text(known_for / 1000 + 3600000)
local before, added, offers = count_waiting(), 0, {}
local count = (#ARGV - 2) / 6
local number = call('INCRBY', base .. 'number', count) - count

local function is_full()
    if before + added >= most then
        purge(at)
        before = count_waiting()
    end
    return before + added >= most
end

local function store(route, record, slot)
    local delivery = string.format('%016d', number + added + 1)
    call('HSET', base .. 'deliveries:' .. route, delivery, record)
    if slot then
        call('RPUSH', base .. 'held:' .. slot .. ':' .. route, delivery)
    else
        call('ZADD', base .. 'queue:' .. route, text(at), delivery)
        offers[route] = true
    end
    added = added + 1
end

local function put(id, digest, received_at, record, candidate, note)
    local seen = call('GET', base .. 'seen:' .. digest)
    if seen and math.abs(received_at - seen) <= known_for then
        return 'n'
    end
    local slot, held = nil, false
    if candidate ~= '' then
        local route, secret = find(id, at) or {}, candidate:sub(2)
        slot, held = find_slot(route, secret)
        if not held and route.secret ~= secret then
            return 'n'
        end
    end
    if note ~= '' then
        bury(id, 0, note, record)
    elseif is_full() then
        return 'f'
    else
        store(id, record, held and slot)
    end
    call('SET', base .. 'seen:' .. digest, received_at, 'PX', kept_for)
    return 'k'
end

local answers = {}
for i = 3, #ARGV, 6 do
    answers[#answers + 1] = put(unpack(ARGV, i, i + 5))
end
call('INCRBY', base .. 'waiting', added)
for route in pairs(offers) do
    offer(route, at)
end
return table.concat(answers)
"""
)

# ARGV: limit, lease, how many bytes are enough. Returns route, fence, and for each delivery its
# number, its tries and its record in one. One that the server lost is handed out without a body:
# it becomes a dead letter, while an error would hold up all others.
CLAIM = Script(
    DRAINS
    + CLOCK
    + QUEUES
    + LEASES
    + """
local untried, lost = string.rep('0', 20), string.rep('\\0', 40)

local function take(route, due)
    local taken, bytes = {}, 0
    for _, delivery in ipairs(due) do
        local tries = call('HGET', base .. 'tries:' .. route, delivery) or untried
        local record = call('HGET', base .. 'deliveries:' .. route, delivery) or lost
        taken[#taken + 1] = delivery .. tries .. record
        bytes = bytes + #record
        if bytes >= tonumber(ARGV[3]) then
            break
        end
    end
    return taken
end

local at = now()
while true do
    local first = call('ZRANGEBYSCORE', base .. 'agenda', '-inf', text(at), 'LIMIT', 0, 1)
    if not first[1] then
        return false
    end
    local route = first[1]
    local due = call('ZRANGEBYSCORE', base .. 'queue:' .. route, '-inf', text(at),
        'LIMIT', 0, ARGV[1])
    if due[1] then
        local fence = add_number()
        call('ZADD', base .. 'agenda', text(tick() + ARGV[2]), route)
        call('HSET', base .. 'leases', route, fence)
        return {route, fence, take(route, due)}
    end
    give_back(route)
end
"""
)

# ARGV: route, fence, lease
RENEW = Script(
    DRAINS
    + CLOCK
    + LEASES
    + """
if not is_leased(ARGV[1], ARGV[2]) then
    return 0
end
call('ZADD', base .. 'agenda', text(tick() + ARGV[3]), ARGV[1])
return 1
"""
)

# ARGV: route, fence, then deliveries
ACK = Script(
    DRAINS
    + CLOCK
    + LEASES
    + """
if not is_leased(ARGV[1], ARGV[2]) then
    return 0
end
remove(ARGV[1], 3, #ARGV)
return 1
"""
)

# ARGV: route, fence, then deliveries
FINISH = Script(
    DRAINS
    + CLOCK
    + LEASES
    + """
if not is_leased(ARGV[1], ARGV[2]) then
    return 0
end
remove(ARGV[1], 3, #ARGV)
give_back(ARGV[1])
return 1
"""
)

# ARGV: route, fence, delivery, delay or 0, tries
RELEASE = Script(
    DRAINS
    + CLOCK
    + LEASES
    + """
local queue = base .. 'queue:' .. ARGV[1]
if not is_leased(ARGV[1], ARGV[2]) or not call('ZSCORE', queue, ARGV[3]) then
    return 0
end
call('HSET', base .. 'tries:' .. ARGV[1], ARGV[3], ARGV[5])
if ARGV[4] ~= '0' then
    call('ZADD', queue, text(tick() + ARGV[4]), ARGV[3])
end
return 1
"""
)

# ARGV: route, fence, delivery, then for each letter: route, done, note, record
BURY = Script(
    DRAINS
    + CLOCK
    + LEASES
    + LETTER
    + """
if not is_leased(ARGV[1], ARGV[2]) or remove(ARGV[1], 3, 3) == 0 then
    return 0
end
for i = 4, #ARGV, 4 do
    bury(unpack(ARGV, i, i + 3))
end
return 1
"""
)

WAITING = Script(
    DRAINS
    + CLOCK
    + ROUTES
    + FORGETTING
    + QUEUES
    + """
purge(now())
return count_waiting()
"""
)

# ARGV: limit, where to begin
LETTERS = Script(
    READS
    + """
return redis.call('XRANGE', KEYS[1] .. 'letters', ARGV[2], '+', 'COUNT', ARGV[1])
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
        local letter, delivery = found[1][2], add_number()
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
