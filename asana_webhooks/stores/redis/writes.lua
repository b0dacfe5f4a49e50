-- A write is a hash: its account, text and resources, its number, when it ends, and of each part that
-- caused an event the key of that. Numbers are in the order of the first puts.

-- Returns a write that has not ended, or nil.
local function find_write(id, at)
    local known = call('HMGET', base .. 'write:' .. id, 'account', 'text', 'resources', 'number', 'ends')
    if (tonumber(known[5] or 0) or 0) > at then
        return {account = known[1], text = known[2], resources = known[3] or '', number = known[4],
            ends = known[5]}
    end
end

local function written_key(resource)
    return base .. 'written:' .. resource
end

local function unlist_write(id, write)
    for resource in write.resources:gmatch('%S+') do
        call('ZREM', written_key(resource), id)
    end
    call('ZREM', base .. 'writes', id)
end

-- ARGV: id, account, text, for how long it is known, then its resources
function calls.put_write()
    local id, account, known_for = ARGV[1], ARGV[2], tonumber(ARGV[4])
    local at, last = tick(1)
    local key, writes = base .. 'write:' .. id, base .. 'writes'
    local write = find_write(id, at)
    if write then
        unlist_write(id, write)
    else
        call('DEL', key)
        write = {number = text(last + 1), ends = text(at + known_for)}
    end
    call('HSET', key, 'account', account, 'text', ARGV[3], 'number', write.number, 'ends', write.ends,
        'resources', table.concat(ARGV, ' ', 5))
    keep_for(key, write.ends - at)
    call('ZREMRANGEBYSCORE', writes, '-inf', text(at))
    call('ZADD', writes, write.ends, id)
    keep_for(writes, write.ends - at)
    for i = 5, #ARGV do
        local written = written_key(ARGV[i])
        call('ZADD', written, write.number, id)
        keep_for(written, write.ends - at)
    end
end

-- ARGV: resources. Returns number, id, account, text and resources of each write, in no order. One that
-- has ended is taken out of the index.
function calls.list_writes()
    local at, found, known = now(), {}, {}
    for i = 1, #ARGV do
        local written = written_key(ARGV[i])
        for _, id in ipairs(call('ZRANGE', written, 0, -1)) do
            local write = not known[id] and find_write(id, at)
            if write then
                found[#found + 1] = {write.number, id, write.account, write.text, write.resources}
            elseif not known[id] then
                call('ZREM', written, id)
            end
            known[id] = known[id] or write
        end
    end
    return found
end

-- ARGV: id, part, key
function calls.take_write()
    local key, part = base .. 'write:' .. ARGV[1], 'part:' .. ARGV[2]
    if not find_write(ARGV[1], now()) then
        return 0
    end
    return (call('HSETNX', key, part, ARGV[3]) == 1 or call('HGET', key, part) == ARGV[3]) and 1 or 0
end

-- Returns the ids of an account's routes; nil while one of them is in use.
local function idle_routes_of(account, at)
    local ids = call('ZRANGE', base .. 'account:' .. account, 0, -1)
    for _, id in ipairs(ids) do
        local route = find(id, at)
        if route and (route.state ~= 'retired' or has_waiting(id)) then
            return
        end
    end
    return ids
end

local function forget_letters(route)
    for _, letter in ipairs(call('SMEMBERS', base .. 'letters:' .. route)) do
        call('XDEL', base .. 'letters', letter)
    end
    call('DEL', base .. 'letters:' .. route)
end

local function forget_writes(account, at)
    for _, id in ipairs(call('ZRANGE', base .. 'writes', 0, -1)) do
        local write = find_write(id, at)
        if write and write.account == account then
            unlist_write(id, write)
            call('DEL', base .. 'write:' .. id)
        end
    end
end

-- Forgets the events that were settled in the scopes of an account, in the hours that are remembered.
local function forget_events(account, known_for)
    local settled, beginning = base .. 'settled', account .. '/'
    local scopes = call('ZRANGE', settled, 0, -1, 'WITHSCORES')
    for i = 1, #scopes, 2 do
        if scopes[i]:sub(1, #beginning) == beginning then
            for hour = scopes[i + 1] - known_for / 3600, scopes[i + 1] do
                call('DEL', events_key(scopes[i], hour))
            end
            call('ZREM', settled, scopes[i])
        end
    end
end

-- ARGV: account, for how many seconds events are known. Returns 0, with nothing done, while the account
-- has a route in use.
function calls.forget_account()
    local account, at = ARGV[1], tick()
    purge(at)
    local routes = idle_routes_of(account, at)
    if not routes then
        return 0
    end
    for _, id in ipairs(routes) do
        forget_letters(id)
        forget(find(id, at) or {id = id, account = account})
    end
    for _, scope in ipairs(scopes_of(account)) do
        call('HDEL', base .. 'states', scope)
        call('ZREM', base .. 'scopes', scope)
    end
    forget_writes(account, at)
    forget_events(account, ARGV[2])
    return 1
end
