-- ARGV: how many may wait, for how long digests are known, then for each delivery: route, digest,
-- received_at, record, trace or nothing, '=' and a candidate's mark or nothing, a letter's note or
-- nothing.
-- Returns a letter for each: k kept, n not, f full. A digest is forgotten an hour late, since the
-- clocks of receivers may differ.
function calls.put()
    local at = tick()
    local most, known_for = tonumber(ARGV[1]), tonumber(ARGV[2])
    local kept_for = text(known_for / 1000 + 3600000)
    local before, added, offers = count_waiting(), 0, {}
    local count = (#ARGV - 2) / 7
    local number = add_numbers(count, at)

    local function is_full()
        if before + added >= most then
            purge(at)
            before = count_waiting()
        end
        return before + added >= most
    end

    local function store(route, record, trace, slot)
        local delivery = string.format('%016d', number + added + 1)
        call('HSET', base .. 'deliveries:' .. route, delivery, record)
        if trace ~= '' then
            call('HSET', base .. 'traces:' .. route, delivery, trace)
        end
        if slot then
            call('RPUSH', base .. 'held:' .. slot .. ':' .. route, delivery)
        else
            call('ZADD', base .. 'queue:' .. route, text(at), delivery)
            offers[route] = true
        end
        added = added + 1
    end

    local function put(id, digest, received_at, record, trace, candidate, note)
        local seen = call('GET', base .. 'seen:' .. digest)
        if seen and math.abs(received_at - seen) <= known_for then
            return 'n'
        end
        local slot, held = nil, false
        if candidate ~= '' then
            local route, mark = find(id, at) or {}, candidate:sub(2)
            slot, held = find_slot(route, mark)
            if not held and route.secret ~= mark then
                return 'n'
            end
        end
        if note ~= '' then
            bury(id, 0, note, record)
        elseif is_full() then
            return 'f'
        else
            store(id, record, trace, held and slot)
        end
        call('SET', base .. 'seen:' .. digest, received_at, 'PX', kept_for)
        return 'k'
    end

    local answers = {}
    for i = 3, #ARGV, 7 do
        answers[#answers + 1] = put(unpack(ARGV, i, i + 6))
    end
    call('INCRBY', base .. 'waiting', added)
    for route in pairs(offers) do
        offer(route, at)
    end
    return table.concat(answers)
end

-- ARGV: limit, lease, how many bytes are enough. Returns route, fence, and for each delivery its
-- number, its tries and its record in one, and its trace. One that the server lost is handed out
-- without a body: it becomes a dead letter, while an error would hold up all others.
function calls.claim()
    local untried, lost = string.rep('0', 20), string.rep('\0', 40)

    local function take(route, due)
        local taken, bytes = {}, 0
        for _, delivery in ipairs(due) do
            local tries = call('HGET', base .. 'tries:' .. route, delivery) or untried
            local record = call('HGET', base .. 'deliveries:' .. route, delivery) or lost
            local trace = call('HGET', base .. 'traces:' .. route, delivery) or ''
            taken[#taken + 1] = {delivery .. tries .. record, trace}
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
            local fence = add_number(at)
            call('ZADD', base .. 'agenda', text(tick() + ARGV[2]), route)
            call('HSET', base .. 'leases', route, fence)
            return {route, fence, take(route, due)}
        end
        give_back(route)
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
    remove(ARGV[1], 3, #ARGV)
    return 1
end

-- ARGV: route, fence, then deliveries
function calls.finish()
    if not is_leased(ARGV[1], ARGV[2]) then
        return 0
    end
    remove(ARGV[1], 3, #ARGV)
    give_back(ARGV[1])
    return 1
end

-- ARGV: route, fence, delivery, delay or 0, tries
function calls.release()
    local queue = base .. 'queue:' .. ARGV[1]
    if not is_leased(ARGV[1], ARGV[2]) or not call('ZSCORE', queue, ARGV[3]) then
        return 0
    end
    call('HSET', base .. 'tries:' .. ARGV[1], ARGV[3], ARGV[5])
    if ARGV[4] ~= '0' then
        call('ZADD', queue, text(tick() + ARGV[4]), ARGV[3])
    end
    return 1
end

-- ARGV: route, fence, delivery, then for each letter: route, done, note, record
function calls.bury()
    if not is_leased(ARGV[1], ARGV[2]) or remove(ARGV[1], 3, 3) == 0 then
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
        return record and struct.unpack('>i8', record)
    end

    purge(now())
    local oldest
    for _, route in ipairs(call('ZRANGE', base .. 'agenda', 0, -1)) do
        local at = received_at(route)
        if at and at < (oldest or math.huge) then
            oldest = at
        end
    end
    return {count_waiting(), call('XLEN', base .. 'letters'), oldest and text(oldest) or false}
end
