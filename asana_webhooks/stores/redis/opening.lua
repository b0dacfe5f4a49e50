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

-- Takes over the agenda, which had the routes of all accounts, and the last number. Both keys are of
-- another type from then on, so that a script of an earlier layout ends at them before it puts or claims.
local function split_agenda(number)
    local at, last = tick()
    for _, id in ipairs(call('HKEYS', base .. 'leases')) do
        call('HSET', base .. 'leases', id, call('HGET', base .. 'leases', id) .. account_of(id, at))
    end
    local agenda = call('ZRANGE', base .. 'agenda', 0, -1, 'WITHSCORES')
    for i = 1, #agenda, 2 do
        local account = account_of(agenda[i], at)
        call('ZADD', base .. 'agenda:' .. account, agenda[i + 1], agenda[i])
        call('ZADD', base .. 'agendas', 'LT', agenda[i + 1], account)
    end
    call('HSET', base .. 'clock', 'number', text(math.max(last, tonumber(number or 0) or 0)))
    call('SET', base .. 'agenda', 'of layouts before 4')
    call('DEL', base .. 'number')
    call('HSET', base .. 'number', 'of', 'layouts before 4')
end

-- ARGV: how many candidates there may be. Counts what is held apart from what waits, where it was not,
-- and has layouts before 4 refused.
function calls.upgrade()
    if call('GET', base .. 'version') == '1' and call('EXISTS', base .. 'held') == 0 then
        local held = 0
        for _, id in ipairs(call('ZRANGE', base .. 'expiries', 0, -1)) do
            for slot = 1, ARGV[1] do
                held = held + call('LLEN', base .. 'held:' .. slot .. ':' .. id)
            end
        end
        call('DECRBY', base .. 'waiting', held)
        call('SET', base .. 'held', held)
    end
    local number, is_another = try(call, 'GET', base .. 'number')
    if not is_another then
        split_agenda(number)
    end
    for _, scope in ipairs(call('HKEYS', base .. 'states')) do
        call('ZADD', base .. 'scopes', 0, scope)
    end
end

-- ARGV: where to go on, for how long retired routes stay known. Gives an end to the routes that were
-- retired when there was none, a time to those that were confirmed without, and to each a place among
-- those of its account. Returns where to go on.
function calls.upgrade_routes()
    local at = tick()
    return walk(ARGV[1], 'route:', function(id)
        local key = base .. 'route:' .. id
        local state, expires, confirmed_at, created_at, account, number = unpack(call('HMGET', key,
            'state', 'expires', 'confirmed_at', 'created_at', 'account', 'number'))
        call('ZADD', base .. 'account:' .. (account or ''), tonumber(number or 0) or 0, id)
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

-- ARGV: the letter behind which to go on, or 0. Keeps which letters each route has. Returns the last that
-- was looked at, 0 at the end.
function calls.upgrade_letters()
    local last = '0'
    local letters = call('XRANGE', base .. 'letters', '(' .. ARGV[1], '+', 'COUNT', 10000)
    for _, letter in ipairs(letters) do
        last = letter[1]
        try(call, 'SADD', base .. 'letters:' .. letter[2][2], last)
    end
    return last
end

-- ARGV: the version of the layout
function calls.upgraded()
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
