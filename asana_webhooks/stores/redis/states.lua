-- A state is a field of one hash: its version, of 16 digits, and its text.
local STATES, SCOPES = base .. 'states', base .. 'scopes'
local UNREADABLE = '\255' -- which is no text in UTF-8

-- Returns what is kept of a state. A version that cannot be read begins again above any that a
-- reader may have: there was no change in each microsecond.
local function mended(scope, kept)
    if not kept:find('^' .. ('%d'):rep(16)) then
        kept = string.format('%016d', now()) .. UNREADABLE
        call('HSET', STATES, scope, kept)
    end
    return kept
end

-- ARGV: scope. Returns its state, or nil.
function calls.get_state()
    local kept = call('HGET', STATES, ARGV[1])
    return kept and mended(ARGV[1], kept)
end

-- ARGV: nothing for all states, or an account. Returns scope and state of each, one after the other.
function calls.list_states()
    local states = {}
    if ARGV[1] then
        local scopes = scopes_of(ARGV[1])
        for i, kept in ipairs(fetch(STATES, scopes)) do
            if kept then
                states[#states + 1], states[#states + 2] = scopes[i], kept
            end
        end
    else
        states = call('HGETALL', STATES)
    end
    for i = 1, #states, 2 do
        states[i + 1] = mended(states[i], states[i + 1])
    end
    return states
end

local function has_version(scope, version)
    local kept = call('HGET', STATES, scope)
    return (kept and kept:sub(1, 16) or ('0'):rep(16)) == version
end

-- Raises the error that names it if one of the keys is damaged that a delivery is added to: so it is
-- known before anything is written.
local function check_keys(routes)
    for route, account in pairs(routes) do
        for _, kind in ipairs({'deliveries:', 'progress:', 'traces:'}) do
            call('HLEN', base .. kind .. route)
        end
        call('ZCARD', base .. 'queue:' .. route)
        call('ZCARD', base .. 'agenda:' .. account)
    end
    call('ZCARD', base .. 'agendas')
    call('HLEN', base .. 'leases')
    call('INCRBY', base .. 'waiting', 0)
    call('ZCARD', base .. 'scopes')
end

-- ARGV: scope, version, the next version, text, then for each delivery: route, attempts, progress,
-- record, trace. Returns 0, with nothing done, when the state has another version.
function calls.put_state()
    if not has_version(ARGV[1], ARGV[2]) then
        return 0
    end
    local at, routes = tick(), {}
    for i = 5, #ARGV, 5 do
        routes[ARGV[i]] = routes[ARGV[i]] or account_of(ARGV[i], at)
    end
    check_keys(routes)
    for i = 5, #ARGV, 5 do
        add_delivery(ARGV[i], at, unpack(ARGV, i + 1, i + 4))
    end
    for route, account in pairs(routes) do
        offer(route, account, at)
    end
    call('HSET', STATES, ARGV[1], ARGV[3] .. ARGV[4])
    call('ZADD', SCOPES, 0, ARGV[1])
    return 1
end

-- ARGV: scope, version
function calls.drop_state()
    if not has_version(ARGV[1], ARGV[2]) then
        return 0
    end
    call('ZREM', SCOPES, ARGV[1])
    return call('HDEL', STATES, ARGV[1])
end

-- Returns the first so many deliveries of a route behind this one, by their numbers. To sort all that
-- waits would take many times longer; most come in order.
local function first_behind(route, after, most)
    local first = {}
    for _, delivery in ipairs(call('ZRANGE', base .. 'queue:' .. route, 0, -1)) do
        if delivery > after and (#first < most or delivery < first[most]) then
            local place = #first + 1
            while place > 1 and first[place - 1] > delivery do
                place = place - 1
            end
            table.insert(first, place, delivery)
            first[most + 1] = nil
        end
    end
    return first
end

-- ARGV: route, the number of a delivery or nothing, limit, how many bytes of bodies. Returns of the
-- deliveries behind that one what a claim returns of each. One that cannot be read is left out: the
-- next claim makes a dead letter of it.
function calls.peek()
    local route, after, limit, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
    local ids, records, bytes = {}, {}, 0

    -- Returns whether there is room for more.
    local function add(delivery)
        local record = call('HGET', base .. 'deliveries:' .. route, delivery)
        if is_readable(record) then
            bytes = bytes + #record - HEADER
            if ids[1] and bytes > most_bytes then
                return false
            end
            ids[#ids + 1], records[#records + 1] = delivery, record
        end
        return #ids < limit
    end

    local has_room = limit > 0
    while has_room and after do
        local first = first_behind(route, after, math.min(limit, CHUNK))
        for _, delivery in ipairs(first) do
            has_room = has_room and add(delivery)
        end
        after = first[#first]
    end
    local known = fetch(base .. 'progress:' .. route, ids)
    local traces = fetch(base .. 'traces:' .. route, ids)
    local shown = {}
    for i, delivery in ipairs(ids) do
        local tries, progress = tries_in(known[i])
        shown[i] = pack_taken(delivery, tries, records[i], progress, traces[i] or '')
    end
    return table.concat(shown)
end
