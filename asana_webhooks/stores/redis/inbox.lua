-- ARGV: how many may wait, how many may be held for a candidate, bytes of their bodies, for how
-- long digests are known, then for each delivery: route, digest, received_at, record, trace or
-- nothing, '=' and a candidate's fingerprint or nothing, a letter's note or nothing.
-- Returns for each: k kept, n not, f full, h too many are held, or an error that names a damaged
-- key. A digest is forgotten an hour late, since the clocks of receivers may differ.
function calls.put()
    local at = tick()
    local most, most_held, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local known_for = tonumber(ARGV[4])
    local kept_for = text(known_for / 1000 + 3600000)
    local waiting, added, held, offers = counter('waiting'), 0, 0, {}
    local number = add_numbers((#ARGV - 4) / 7, at)

    local function add(route, record, trace)
        local delivery = string.format('%016d', number + added + held + 1)
        call('HSET', base .. 'deliveries:' .. route, delivery, record)
        if trace ~= '' then
            call('HSET', base .. 'traces:' .. route, delivery, trace)
        end
        return delivery
    end

    local function enqueue_later(route, record, trace)
        if waiting + added >= most then
            return 'f'
        end
        call('ZADD', base .. 'queue:' .. route, text(at), add(route, record, trace))
        offers[route] = true
        added = added + 1
        return 'k'
    end

    local function hold(route, slot, record, trace)
        local key = base .. 'held:' .. slot .. ':' .. route
        local others, bytes = call('LRANGE', key, 0, -1), #record - HEADER
        for _, other in ipairs(others) do
            bytes = bytes + call('HSTRLEN', base .. 'deliveries:' .. route, other) - HEADER
        end
        if #others >= most_held or bytes > most_bytes then
            return 'h'
        end
        call('RPUSH', key, add(route, record, trace))
        held = held + 1
        return 'k'
    end

    local function put(id, digest, received_at, record, trace, candidate, note)
        local seen = call('GET', base .. 'seen:' .. digest)
        if seen and math.abs(received_at - seen) <= known_for then
            return 'n'
        end
        local slot, is_candidate = nil, false
        if candidate ~= '' then
            local route, fingerprint = find(id, at) or {}, candidate:sub(2)
            slot, is_candidate = find_slot(route, fingerprint)
            if not is_candidate and route.secret ~= fingerprint then
                return 'n'
            end
        end
        local answer = 'k'
        if note ~= '' then
            bury(id, 0, note, record)
        elseif is_candidate then
            answer = hold(id, slot, record, trace)
        else
            answer = enqueue_later(id, record, trace)
        end
        if answer == 'k' then
            call('SET', base .. 'seen:' .. digest, received_at, 'PX', kept_for)
        end
        return answer
    end

    local answers = {}
    for i = 5, #ARGV, 7 do
        local answer, damage = try(put, unpack(ARGV, i, i + 6))
        answers[#answers + 1] = answer or damage
    end
    for route in pairs(offers) do
        offer(route, at)
    end
    call('INCRBY', base .. 'waiting', added)
    call('INCRBY', base .. 'held', held)
    return answers
end

-- ARGV: limit, lease, how many bytes of bodies. Returns route, fence, and for each delivery its
-- number, its tries and its record in one, and its trace. A delivery that crashed a claim comes
-- alone, one that cannot be read becomes a dead letter. A route with a damaged key holds up no
-- other, it is set aside: returns the error, gid and resource.
function calls.claim()
    local function bury_unreadable(route, delivery, record, at)
        local note = text(at) .. ' unreadable: its record on the server is lost or damaged'
        bury(route, 0, note, string.rep('\0', HEADER) .. (record or ''):sub(HEADER + 1))
        remove(route, {delivery}, 1, 1)
    end

    local function take(route, due, at)
        local taken, ids, bytes = {}, {}, 0
        local known = fetch(base .. 'tries:' .. route, due)
        local traces = fetch(base .. 'traces:' .. route, due)
        for i, delivery in ipairs(due) do
            local tries = tries_in(known[i])
            local has_crashed = tonumber(tries:sub(21)) > 0
            local record = call('HGET', base .. 'deliveries:' .. route, delivery)
            bytes = bytes + #(record or '') - HEADER
            if ids[1] and (has_crashed or bytes > tonumber(ARGV[3])) then
                break
            elseif is_readable(record) then
                taken[#taken + 1] = {delivery .. tries .. record, traces[i] or ''}
                ids[#ids + 1] = delivery
                if has_crashed then
                    break
                end
            else
                bury_unreadable(route, delivery, record, at)
            end
        end
        return taken, ids
    end

    local function lease(route, at)
        count_crashes(route)
        local due = call('ZRANGEBYSCORE', base .. 'queue:' .. route, '-inf', text(at),
            'LIMIT', 0, ARGV[1])
        local taken, ids = take(route, due, at)
        if ids[1] then
            local fence = add_number(at)
            call('ZADD', base .. 'agenda', text(tick() + ARGV[2]), route)
            call('HSET', base .. 'leases', route, fence)
            call('SET', base .. 'claimed:' .. route, table.concat(ids, ' '))
            return {route, fence, taken}
        end
        give_back(route)
    end

    local at = now()
    while true do
        local first = call('ZRANGEBYSCORE', base .. 'agenda', '-inf', text(at), 'LIMIT', 0, 1)
        if not first[1] then
            return false
        end
        local claim, damage = try(lease, first[1], at)
        if claim then
            return claim
        elseif damage then
            call('ZREM', base .. 'agenda', first[1])
            call('HDEL', base .. 'leases', first[1])
            local known = try(call, 'HMGET', base .. 'route:' .. first[1], 'gid', 'resource') or {}
            return {damage, known[1] or '', known[2] or ''}
        end
    end
end

-- ARGV: route, fence, lease
function calls.renew()
    if not is_leased(ARGV[1], ARGV[2]) then
        return 0
    end
    call('ZADD', base .. 'agenda', text(tick() + ARGV[3]), ARGV[1])
    return 1
end

-- ARGV: route, fence, then deliveries
function calls.ack()
    if not is_leased(ARGV[1], ARGV[2]) then
        return 0
    end
    remove(ARGV[1], ARGV, 3, #ARGV)
    return 1
end

-- ARGV: route, fence, then deliveries
function calls.finish()
    if not is_leased(ARGV[1], ARGV[2]) then
        return 0
    end
    remove(ARGV[1], ARGV, 3, #ARGV)
    give_back(ARGV[1])
    return 1
end

-- ARGV: route, fence, delivery, delay or 0, attempts and handled events. The worker lives, so of
-- its crashes only one is remembered: it still comes alone.
function calls.release()
    local queue = base .. 'queue:' .. ARGV[1]
    if not is_leased(ARGV[1], ARGV[2]) or not call('ZSCORE', queue, ARGV[3]) then
        return 0
    end
    local crashes = tonumber(tries_of(ARGV[1], ARGV[3]):sub(21))
    set_tries(ARGV[1], ARGV[3], ARGV[5], math.min(crashes, 1))
    local claimed = call('GET', base .. 'claimed:' .. ARGV[1]) or ''
    call('SET', base .. 'claimed:' .. ARGV[1], (claimed:gsub(ARGV[3], '')))
    if ARGV[4] ~= '0' then
        call('ZADD', queue, text(tick() + ARGV[4]), ARGV[3])
    end
    return 1
end

-- ARGV: route, fence, delivery, then for each letter: route, done, note, record
function calls.bury()
    if not is_leased(ARGV[1], ARGV[2]) or remove(ARGV[1], ARGV, 3, 3) == 0 then
        return 0
    end
    for i = 4, #ARGV, 4 do
        bury(unpack(ARGV, i, i + 3))
    end
    return 1
end

-- Returns how many deliveries wait, how many letters there are, and when the oldest delivery was
-- received of those that are the first of their routes, or nil. A record begins with that time.
function calls.counts()
    local function received_at(route)
        local first = call('ZRANGE', base .. 'queue:' .. route, 0, 0)[1]
        local record = first and call('HGET', base .. 'deliveries:' .. route, first)
        return is_readable(record) and struct.unpack('>i8', record)
    end

    purge(now())
    local oldest
    for _, route in ipairs(call('ZRANGE', base .. 'agenda', 0, -1)) do
        local at = try(received_at, route)
        if at and at < (oldest or math.huge) then
            oldest = at
        end
    end
    local waiting, letters = counter('waiting') + counter('held'), call('XLEN', base .. 'letters')
    return {waiting, letters, oldest and text(oldest) or false}
end
