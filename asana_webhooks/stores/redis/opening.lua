-- ARGV: the version of the layout. Returns the one that the server's keys have.
function calls.open()
    tick()
    call('SET', base .. 'version', ARGV[1], 'NX')
    local version = tonumber(call('GET', base .. 'version'))
    return version or error({err = 'DAMAGED ' .. base .. 'version'})
end

-- Calls a function with what follows this beginning in the names of some keys. A damaged one is left.
-- Returns where to go on next, 0 at the end.
local function walk(cursor, beginning, f)
    local pattern = (base .. beginning):gsub('[%[%]%?%*\\]', '\\%0') .. '*'
    local found = call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 10000)
    for _, key in ipairs(found[2]) do
        try(f, key:sub(#base + #beginning + 1))
    end
    return found[1]
end

-- ARGV: where to go on, for how long retired routes stay known. Gives an end to the routes that were
-- retired when there was none, and a time to those that were confirmed without. Returns where to go
-- on.
function calls.upgrade_routes()
    local at = tick()
    return walk(ARGV[1], 'route:', function(id)
        local key = base .. 'route:' .. id
        local state, expires, confirmed_at, created_at =
            unpack(call('HMGET', key, 'state', 'expires', 'confirmed_at', 'created_at'))
        if state == 'retired' and not expires then
            set_end(id, at + ARGV[2])
        elseif state == 'confirmed' and not confirmed_at and created_at then
            call('HSET', key, 'confirmed_at', created_at)
        end
    end)
end

-- ARGV: where to go on. Takes over attempts, handled events and crashes, which were ten digits each.
-- Returns where to go on.
function calls.upgrade_tries()
    return walk(ARGV[1], 'tries:', function(route)
        local tries = call('HGETALL', base .. 'tries:' .. route)
        for i = 1, #tries, 2 do
            local digits = (tries[i + 1]:match('^%d+$') or '') .. string.rep('0', 30)
            local progress = progress_after(tonumber(digits:sub(11, 20)))
            set_progress(route, tries[i], digits:sub(1, 10), digits:sub(21, 30), progress)
        end
        call('DEL', base .. 'tries:' .. route)
    end)
end

-- ARGV: the version of the layout, how many candidates there may be. Counts what is held apart from
-- what waits, where it was not.
function calls.upgrade()
    if call('GET', base .. 'version') == '1' then
        local held = 0
        for _, id in ipairs(call('ZRANGE', base .. 'expiries', 0, -1)) do
            for slot = 1, ARGV[2] do
                held = held + call('LLEN', base .. 'held:' .. slot .. ':' .. id)
            end
        end
        call('DECRBY', base .. 'waiting', held)
        call('SET', base .. 'held', held)
    end
    call('SET', base .. 'version', ARGV[1])
end

-- Returns for each secret and each candidate: the route's id, the names of the fields of its
-- fingerprint and ciphertext, both of these, gid and resource. Expired routes are forgotten first,
-- so that nobody needs their keys.
function calls.list_secrets()
    local at, found = now(), {}
    local function add(route, fingerprint, ciphertext)
        found[#found + 1] = {
            route.id, fingerprint, ciphertext, route[fingerprint], route[ciphertext] or '',
            route.gid or '', route.resource or '',
        }
    end

    purge(at)
    for _, id in ipairs(call('ZRANGE', base .. 'routes', 0, -1)) do
        local route, slot = try(find, id, at) or {}, 1
        if route.secret then
            add(route, 'secret', 'seal')
        end
        while route['candidate' .. slot] do
            add(route, 'candidate' .. slot, 'seal' .. slot)
            slot = slot + 1
        end
    end
    return found
end

-- ARGV: for each secret what was listed of it, then its new fingerprint and ciphertext. Returns how
-- many were still as they were listed, and are renewed.
function calls.renew_secrets()
    local renewed = 0
    for i = 1, #ARGV, 7 do
        local key, fingerprint, ciphertext = base .. 'route:' .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
        local kept = call('HMGET', key, fingerprint, ciphertext)
        if kept[1] == ARGV[i + 3] and (kept[2] or '') == ARGV[i + 4] then
            call('HSET', key, fingerprint, ARGV[i + 5], ciphertext, ARGV[i + 6])
            renewed = renewed + 1
        end
    end
    return renewed
end
