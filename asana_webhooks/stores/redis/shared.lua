local calls = {}
local base = KEYS[1]
local HEADER = 40 -- the bytes of a record before the body: time of receipt and digest
local CHUNK = 1000 -- how many arguments a command is given, of which Lua bears some thousands
local FENCE_DIGITS = 16
local HOUR = 3600 * 1000000
local FRESH = string.rep('0', 30) -- what tries_in returns of a delivery that was never tried

-- A key without its end, which may be a route's id: nobody must see that.
local function name_of(key)
    return (key:gsub('^(' .. ('.'):rep(#base) .. '%a+:).*$', '%1*'))
end

-- Runs a command. A key that something else has written to is named in the error.
local function call(command, key, ...)
    local answer = redis.pcall(command, key, ...)
    if type(answer) == 'table' and answer.err then
        if answer.err:find('WRONGTYPE') or answer.err:find('not an integer') then
            error({err = 'DAMAGED ' .. name_of(key)})
        end
        error(answer)
    end
    return answer
end

-- Returns what a function returns, or nil and an error that names a damaged key.
local function try(f, ...)
    local ok, answer = pcall(f, ...)
    if ok then
        return answer
    end
    local failure = type(answer) == 'table' and answer.err or answer -- servers differ in this
    if failure:find('^DAMAGED') then
        return nil, failure
    end
    error({err = failure})
end

local function text(number)
    return string.format('%.0f', number)
end

-- Returns the server's time, and what is kept of the clock: the last reading, how much is added, and
-- the last number that was given.
local function reading()
    local time = redis.call('TIME')
    local known = call('HMGET', base .. 'clock', 'last', 'ahead', 'number')
    for i = 1, 3 do
        known[i] = tonumber(known[i] or 0) or 0
    end
    return time[1] * 1000000 + time[2], unpack(known)
end

local function now()
    local time, last, ahead = reading()
    return math.max(time + ahead, last)
end

-- Moves the clock on, and gives so many numbers, or none. Returns the time, and the number before them.
local function tick(count)
    local time, last, ahead, number = reading()
    ahead = math.max(ahead, last - time)
    number = math.max(number, time + ahead)
    call('HSET', base .. 'clock', 'last', text(time + ahead), 'ahead', text(ahead),
        'number', text(number + (count or 0)))
    return time + ahead, number
end

local function format_number(number)
    return string.format('%016d', number)
end

-- Has the server forget a key an hour after so many microseconds, unless it does so later.
local function keep_for(key, span)
    local kept_for = span / 1000 + HOUR / 1000
    if call('PTTL', key) < kept_for then
        call('PEXPIRE', key, text(kept_for))
    end
end

local function is_over(route, at)
    return route.expires and (tonumber(route.expires) or 0) <= at
end

local function has_waiting(id)
    return call('EXISTS', base .. 'queue:' .. id) == 1
end

-- A retired route stays known while a delivery of it waits, or a dead letter of it is left.
local function is_needed(route)
    return route.state == 'retired'
        and (has_waiting(route.id) or call('EXISTS', base .. 'letters:' .. route.id) == 1)
end

local function find(id, at)
    local fields = call('HGETALL', base .. 'route:' .. id)
    local route = {}
    for i = 1, #fields, 2 do
        route[fields[i]] = fields[i + 1]
    end
    route.id = fields[1] and id
    if route.id and not (is_over(route, at) and not is_needed(route)) then
        return route
    end
end

-- Returns the account of a route; the one without a name when the route is not known, or damaged.
local function account_of(id, at)
    local known = try(call, 'HMGET', base .. 'route:' .. id, 'account', 'state', 'expires') or {}
    local route = {id = id, state = known[2], expires = known[3]}
    if is_over(route, at) and not is_needed(route) then
        return ''
    end
    return known[1] or ''
end

-- Has what waits of a route wait for another account.
local function move_turn(id, account, other)
    local turn, lease = call('ZSCORE', base .. 'agenda:' .. account, id), call('HGET', base .. 'leases', id)
    if turn and account ~= other then
        call('ZREM', base .. 'agenda:' .. account, id)
        call('ZADD', base .. 'agenda:' .. other, turn, id)
        call('ZADD', base .. 'agendas', 'LT', turn, other)
        if lease then
            call('HSET', base .. 'leases', id, lease:sub(1, FENCE_DIGITS) .. other)
        end
    end
end

local function find_slot(route, fingerprint)
    local slot = 1
    while route['candidate' .. slot] ~= fingerprint and route['candidate' .. slot] do
        slot = slot + 1
    end
    return slot, route['candidate' .. slot] == fingerprint
end

local function set_end(id, at)
    call('HSET', base .. 'route:' .. id, 'expires', text(at))
    call('ZADD', base .. 'expiries', text(at), id)
end

local function unlist(id, resource)
    call('ZREM', base .. 'routes', id)
    call('ZREM', base .. 'resource:' .. resource, id)
end

local function drop_held(id, slot)
    local key = base .. 'held:' .. slot .. ':' .. id
    local held = call('LRANGE', key, 0, -1)
    for _, delivery in ipairs(held) do
        call('HDEL', base .. 'deliveries:' .. id, delivery)
        call('HDEL', base .. 'traces:' .. id, delivery)
    end
    call('DECRBY', base .. 'held', #held)
    call('DEL', key)
end

local function drop_candidates(route)
    local slot = 1
    while route['candidate' .. slot] do
        drop_held(route.id, slot)
        call('HDEL', base .. 'route:' .. route.id, 'candidate' .. slot, 'seal' .. slot)
        slot = slot + 1
    end
    call('ZREM', base .. 'expiries', route.id)
end

local function forget(route)
    drop_candidates(route)
    unlist(route.id, route.resource or '')
    call('ZREM', base .. 'account:' .. (route.account or ''), route.id)
    move_turn(route.id, route.account or '', '')
    call('DEL', base .. 'route:' .. route.id, base .. 'fence:' .. route.id)
end

-- Forgets the routes whose time is over. One that is needed still, or has a damaged key, is looked
-- at again an hour later.
local function purge(at)
    for _, id in ipairs(call('ZRANGEBYSCORE', base .. 'expiries', '-inf', text(at))) do
        local route = try(find, id, 0) or {id = id, resource = ''}
        if is_needed(route) or select(2, try(forget, route)) then
            call('ZADD', base .. 'expiries', text(at + HOUR), id)
        end
    end
end

local function counter(name)
    return tonumber(call('GET', base .. name) or 0) or 0
end

local function add_number()
    local _, number = tick(1)
    return format_number(number + 1)
end

local function offer(route, account, at)
    if call('HEXISTS', base .. 'leases', route) == 0 then
        call('ZADD', base .. 'agenda:' .. account, 'LT', text(at), route)
        call('ZADD', base .. 'agendas', 'LT', text(at), account)
    end
end

local function enqueue(route, delivery, at)
    local account = account_of(route, at)
    call('ZADD', base .. 'queue:' .. route, text(at), delivery)
    offer(route, account, at)
end

-- Returns attempts, crashes and bytes of progress of a delivery, of ten digits each, and its
-- progress.
local function tries_in(kept)
    if not kept then
        return FRESH, ''
    end
    local tries, progress = kept:sub(1, #FRESH), kept:sub(#FRESH + 1)
    if tries:find('^%d+$') and tonumber(tries:sub(21)) == #progress then
        return tries, progress
    end
    return FRESH, ''
end

local function crashes_in(tries)
    return tonumber(tries:sub(11, 20))
end

local function set_progress(route, delivery, attempts, crashes, progress)
    local kept = string.format('%010d%010d%010d', attempts, crashes, #progress) .. progress
    call('HSET', base .. 'progress:' .. route, delivery, kept)
end

-- Adds a delivery that is no duplicate of any, and takes room though there may be none.
local function add_delivery(route, due, attempts, progress, record, trace)
    local delivery = add_number()
    call('HSET', base .. 'deliveries:' .. route, delivery, record)
    if attempts ~= '0' or progress ~= '' then
        set_progress(route, delivery, attempts, 0, progress)
    end
    if trace ~= '' then
        call('HSET', base .. 'traces:' .. route, delivery, trace)
    end
    call('ZADD', base .. 'queue:' .. route, text(due), delivery)
    call('INCR', base .. 'waiting')
end

-- Returns the values of these fields; false, or nothing at all, for one that there is not.
local function fetch(key, fields)
    local found = {}
    if not fields[1] or call('EXISTS', key) == 0 then
        return found
    end
    for from = 1, #fields, CHUNK do
        local to = math.min(from + CHUNK - 1, #fields)
        for _, value in ipairs(call('HMGET', key, unpack(fields, from, to))) do
            found[#found + 1] = value
        end
    end
    return found
end

-- Returns what the last claim of a route holds, in order.
local function claimed_of(route)
    local claimed = {}
    for delivery in (call('GET', base .. 'claimed:' .. route) or ''):gmatch('%d+') do
        claimed[#claimed + 1] = delivery
    end
    return claimed
end

local function set_claimed(route, deliveries)
    call('SET', base .. 'claimed:' .. route, table.concat(deliveries, ' '))
end

-- Returns a table in which each of these is true.
local function set_of(deliveries)
    local set = {}
    for _, delivery in ipairs(deliveries) do
        set[delivery] = true
    end
    return set
end

-- Ends the last claim of a route: what it held and did not settle was at hand when it crashed.
local function count_crashes(route)
    local claimed = claimed_of(route)
    local known = fetch(base .. 'progress:' .. route, claimed)
    for i, delivery in ipairs(claimed) do
        if call('ZSCORE', base .. 'queue:' .. route, delivery) then
            local tries, progress = tries_in(known[i])
            set_progress(route, delivery, tries:sub(1, 10), crashes_in(tries) + 1, progress)
        end
    end
    call('DEL', base .. 'claimed:' .. route)
end

-- Returns the account in whose agenda a route is while this claim has it, or nil.
local function find_lease(route, fence)
    local lease = call('HGET', base .. 'leases', route)
    return lease and lease:sub(1, FENCE_DIGITS) == fence and lease:sub(FENCE_DIGITS + 1) or nil
end

-- Runs a command with all of these arguments; returns the sum of the answers.
local function call_with_all(command, key, arguments)
    local sum = 0
    for from = 1, #arguments, CHUNK do
        local to = math.min(from + CHUNK - 1, #arguments)
        sum = sum + call(command, key, unpack(arguments, from, to))
    end
    return sum
end

local function remove(route, deliveries)
    local gone = call_with_all('ZREM', base .. 'queue:' .. route, deliveries)
    call_with_all('HDEL', base .. 'deliveries:' .. route, deliveries)
    for _, kind in ipairs({'progress:', 'traces:'}) do -- which few deliveries have
        if call('EXISTS', base .. kind .. route) == 1 then
            call_with_all('HDEL', base .. kind .. route, deliveries)
        end
    end
    if gone > 0 then
        call('DECRBY', base .. 'waiting', gone)
    end
end

local function give_back(route, account)
    call('HDEL', base .. 'leases', route)
    call('DEL', base .. 'claimed:' .. route)
    local first = call('ZRANGE', base .. 'queue:' .. route, 0, 0, 'WITHSCORES')
    if first[1] then
        call('ZADD', base .. 'agenda:' .. account, first[2], route)
        call('ZADD', base .. 'agendas', 'LT', first[2], account)
    else
        call('ZREM', base .. 'agenda:' .. account, route)
    end
end

-- Whether a record is whole: it has its header, and a time of receipt in the years 1 to 9999.
local function is_readable(record)
    if not record or #record < HEADER then
        return false
    end
    local received_at = struct.unpack('>i8', record)
    return received_at > -62135596800000000 and received_at < 253402300799000000
end

-- Returns what a claim gives of a delivery: two sizes; number, tries, record and progress; trace.
local function pack_taken(delivery, tries, record, progress, trace)
    local size = #delivery + #tries + #record + #progress
    return table.concat({struct.pack('>I4I4', size, #trace), delivery, tries, record, progress, trace})
end

-- Returns the id of the dead letter. A damaged index of a route's letters hinders none.
local function bury(route, progress, note, record)
    local letter = call('XADD', base .. 'letters', '*',
        'route', route, 'progress', progress, 'note', note, 'record', record)
    try(call, 'SADD', base .. 'letters:' .. route, letter)
    return letter
end

-- Removes a dead letter of a route; returns how many were removed.
local function unbury(route, letter)
    try(call, 'SREM', base .. 'letters:' .. route, letter)
    return call('XDEL', base .. 'letters', letter)
end

-- Returns the scopes of an account that have a state. They are kept in the order of their letters, and '0'
-- is the one behind '/'.
local function scopes_of(account)
    return call('ZRANGEBYLEX', base .. 'scopes', '[' .. account .. '/', '(' .. account .. '0')
end

-- What is remembered of a scope's events: a string for each hour of the store's clock.
local function events_key(scope, hour)
    return base .. 'events:' .. hour .. ':' .. scope
end

local function hour_of(at)
    return math.floor(at / HOUR)
end

-- Returns how far a delivery came of which the first so many events were handled.
local function progress_after(handled)
    return handled > 0 and string.format('{"upto":%d}', handled) or ''
end
