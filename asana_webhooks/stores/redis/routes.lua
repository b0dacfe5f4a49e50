-- Whether a route is on the way, or receives and shall go on, below this address for this account.
local function is_served(id, prefix, account)
    local known = call('HMGET', base .. 'route:' .. id, 'place', 'account', 'leaving')
    return known[1] == prefix and (known[2] or '') == account and not known[3]
end

-- Lets a confirmed route leave; returns whether it is one.
local function let_leave(id, at)
    local route = find(id, at)
    if not route or route.state ~= 'confirmed' then
        return false
    end
    call('HSET', base .. 'route:' .. id, 'leaving', '1')
    return true
end

-- ARGV: id, ttl, exclusive, prefix, resource, account, created_at, then other fields and their
-- values
function calls.reserve()
    local id, prefix, resource, account = ARGV[1], ARGV[4], ARGV[5], ARGV[6]
    local key, of_resource = base .. 'route:' .. id, base .. 'resource:' .. resource
    local at, last = tick(1)
    purge(at)
    if call('EXISTS', key) == 1 then
        return 0
    end
    if ARGV[3] == '1' then
        for _, other in ipairs(call('ZRANGE', of_resource, 0, -1)) do
            if is_served(other, prefix, account) then
                return 0
            end
        end
    end
    local expires, number = text(at + ARGV[2]), format_number(last + 1)
    call('HSET', key, 'id', id, 'state', 'reserved', 'place', prefix, 'resource', resource,
        'account', account, 'created_at', ARGV[7], 'expires', expires, 'number', number)
    for i = 8, #ARGV, 2 do
        call('HSET', key, ARGV[i], ARGV[i + 1])
    end
    call('ZADD', base .. 'routes', number, id)
    call('ZADD', of_resource, number, id)
    call('ZADD', base .. 'account:' .. account, number, id)
    move_turn(id, '', account)
    call('ZADD', base .. 'expiries', expires, id)
    return 1
end

-- ARGV: ids. Returns a packed map, an error that names a damaged key, or nil, for each.
function calls.get_routes()
    local at, found = now(), {}
    for i = 1, #ARGV do
        local route, damage = try(find, ARGV[i], at)
        found[i] = damage or route and cmsgpack.pack(route) or false
    end
    return found
end

-- ARGV: the name of an index of routes, or of two. Returns what get_routes returns of those that are
-- in each and not retired.
function calls.list_routes()
    local at, found = now(), {}
    for _, id in ipairs(call('ZRANGE', base .. ARGV[1], 0, -1)) do
        if not ARGV[2] or call('ZSCORE', base .. ARGV[2], id) then
            local route, damage = try(find, id, at)
            if damage or route and route.state ~= 'retired' then
                found[#found + 1] = damage or cmsgpack.pack(route)
            end
        end
    end
    return found
end

-- ARGV: id, fingerprint, ciphertext or nothing, how many candidates there may be
function calls.add_candidate()
    local route = find(ARGV[1], now())
    if not route then
        return 0
    end
    local slot, known = find_slot(route, ARGV[2])
    if known or route.secret == ARGV[2] then
        return 1
    end
    if route.state ~= 'reserved' or slot > tonumber(ARGV[4]) then
        return 0
    end
    local key = base .. 'route:' .. route.id
    call('HSET', key, 'candidate' .. slot, ARGV[2])
    if ARGV[3] ~= '' then
        call('HSET', key, 'seal' .. slot, ARGV[3])
    end
    return 1
end

-- ARGV: id, gid, fingerprint, confirmed_at, then the ids of routes that shall leave
function calls.confirm()
    local at = tick()
    local route = find(ARGV[1], at)
    local slot, known = find_slot(route or {}, ARGV[3])
    if not known then
        return 0
    end
    local key, held = base .. 'route:' .. route.id, base .. 'held:' .. slot .. ':' .. route.id
    local deliveries = call('LRANGE', held, 0, -1)
    for _, delivery in ipairs(deliveries) do
        enqueue(route.id, delivery, at)
    end
    call('INCRBY', base .. 'waiting', #deliveries)
    call('DECRBY', base .. 'held', #deliveries)
    call('DEL', held)
    drop_candidates(route)
    call('HSET', key, 'state', 'confirmed', 'gid', ARGV[2], 'secret', ARGV[3],
        'confirmed_at', ARGV[4])
    if route['seal' .. slot] then
        call('HSET', key, 'seal', route['seal' .. slot])
    end
    call('HDEL', key, 'expires')
    for i = 5, #ARGV do
        try(let_leave, ARGV[i], at)
    end
    return 1
end

-- ARGV: id
function calls.leave()
    return let_leave(ARGV[1], now()) and 1 or 0
end

-- ARGV: id, field, and its value unless it shall be removed
function calls.change()
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
end

-- ARGV: id, for how long it stays known, as what it is retired
function calls.retire()
    local at = tick()
    local route = find(ARGV[1], at)
    if not route or route.state ~= 'confirmed' then
        return 0
    end
    unlist(route.id, route.resource)
    call('HDEL', base .. 'route:' .. route.id, 'secret', 'seal')
    call('HSET', base .. 'route:' .. route.id, 'state', 'retired',
        'retired_as', ARGV[3])
    set_end(route.id, at + ARGV[2])
    return 1
end

-- ARGV: id. Returns the packed map, or nil.
function calls.drop()
    local route = find(ARGV[1], now())
    if not route or route.state ~= 'reserved' then
        return false
    end
    forget(route)
    return cmsgpack.pack(route)
end

-- ARGV: public URL, holder, for how long. Returns another URL whose holders live, or nil.
function calls.own()
    local at, owners = tick(), base .. 'owners'
    local known = call('HGETALL', owners)
    for i = 1, #known, 2 do
        local ends, url = known[i + 1]:match('^(%d+) (.*)$')
        if not ends or tonumber(ends) <= at then
            call('HDEL', owners, known[i])
        elseif url ~= ARGV[1] and known[i] ~= ARGV[2] then
            return url
        end
    end
    call('HSET', owners, ARGV[2], text(at + ARGV[3]) .. ' ' .. ARGV[1])
    return false
end

-- ARGV: name, holder, for how long, how many others may hold it, or nothing. Returns how many hold it,
-- or 0.
function calls.hold()
    local at, holders, holder = tick(), base .. 'holders:' .. ARGV[1], ARGV[2]
    local names = base .. 'names:' .. holder
    call('ZREMRANGEBYSCORE', holders, '-inf', text(at))
    local ends = math.max(at + ARGV[3], tonumber(call('ZSCORE', holders, holder) or 0))
    call('ZREM', holders, holder)
    local others = call('ZCARD', holders)
    if ARGV[4] and others >= tonumber(ARGV[4]) then
        call('SREM', names, ARGV[1])
        return 0
    end
    call('ZADD', holders, text(ends), holder)
    call('SADD', names, ARGV[1])
    keep_for(holders, ends - at)
    keep_for(names, ends - at)
    return others + 1
end

-- ARGV: holder
function calls.disown()
    call('HDEL', base .. 'owners', ARGV[1])
    for _, name in ipairs(call('SMEMBERS', base .. 'names:' .. ARGV[1])) do
        call('ZREM', base .. 'holders:' .. name, ARGV[1])
    end
    call('DEL', base .. 'names:' .. ARGV[1])
end
