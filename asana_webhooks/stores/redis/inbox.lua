-- ARGV: how many may wait, how many may be held for a candidate, bytes of their bodies, for how
-- long digests are known, how many deliveries there are, and these, packed: of each route, record,
-- trace or nothing, '=' and a candidate's fingerprint or nothing, a letter's note or nothing.
-- Returns a letter for each: k kept, n not, f full, h too many are held, d a damaged key; then the
-- errors that name those keys. A digest is forgotten an hour late, since the clocks of receivers may differ.
function calls.put()
    local at, number = tick(tonumber(ARGV[5]))
    local most, most_held, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local known_for = tonumber(ARGV[4])
    local kept_for = text(known_for / 1000 + 3600000)
    local waiting, added, held, offers = counter('waiting'), 0, 0, {}

    local function add(route, record, trace)
        local delivery = format_number(number + added + held + 1)
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
        local account = offers[route] or account_of(route, at)
        call('ZADD', base .. 'queue:' .. route, text(at), add(route, record, trace))
        offers[route] = account
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

    local function put(id, record, trace, candidate, note)
        local digest = record:sub(9, HEADER)
        local received_at, seen = struct.unpack('>i8', record), call('GET', base .. 'seen:' .. digest)
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
            bury(id, '', note, record)
        elseif is_candidate then
            answer = hold(id, slot, record, trace)
        else
            answer = enqueue_later(id, record, trace)
        end
        if answer == 'k' then
            call('SET', base .. 'seen:' .. digest, text(received_at), 'PX', kept_for)
        end
        return answer
    end

    local letters, answers, packed, place = {}, {}, ARGV[6], 1
    while place <= #packed do
        local parts = {struct.unpack('>I4I4I4I4I4', packed, place)}
        place = parts[6]
        for i = 1, 5 do
            local size = parts[i]
            parts[i] = packed:sub(place, place + size - 1)
            place = place + size
        end
        local answer, damage = try(put, unpack(parts, 1, 5))
        letters[#letters + 1] = answer or 'd'
        answers[#answers + 1] = damage
    end
    for route, account in pairs(offers) do
        offer(route, account, at)
    end
    call('INCRBY', base .. 'waiting', added)
    if held > 0 then
        call('INCRBY', base .. 'held', held)
    end
    table.insert(answers, 1, table.concat(letters))
    return answers
end

local function bury_unreadable(route, delivery, record, at)
    local note = text(at) .. ' unreadable: its record on the server is lost or damaged'
    bury(route, '', note, string.rep('\0', HEADER) .. (record or ''):sub(HEADER + 1))
    remove(route, {delivery})
end

-- Returns of these due deliveries those that have room in so many bytes of bodies, up to the first
-- that crashed a claim; that one comes alone, and only to a new claim. First these, packed; then their
-- numbers. One that cannot be read becomes a dead letter.
local function take(route, due, at, most_bytes, is_new)
    local taken, ids, bytes = {}, {}, 0
    local known = fetch(base .. 'progress:' .. route, due)
    local traces = fetch(base .. 'traces:' .. route, due)
    for i, delivery in ipairs(due) do
        local tries, progress = tries_in(known[i])
        local has_crashed = crashes_in(tries) > 0
        local record = call('HGET', base .. 'deliveries:' .. route, delivery)
        bytes = bytes + #(record or '') - HEADER
        if has_crashed and not (is_new and not ids[1]) or ids[1] and bytes > most_bytes then
            break
        elseif is_readable(record) then
            taken[#taken + 1] = pack_taken(delivery, tries, record, progress, traces[i] or '')
            ids[#ids + 1] = delivery
            if has_crashed then
                break
            end
        else
            bury_unreadable(route, delivery, record, at)
        end
    end
    return table.concat(taken), ids
end

-- Returns an account that is not skipped, and the route of it whose turn it is: the one that is due
-- first of all. Nothing when none is due. An account is in agendas by the time of the first route in
-- its agenda or an earlier one, which is corrected here when it matters.
local function find_turn(at, skipped, count)
    while true do
        local found = call('ZRANGEBYSCORE', base .. 'agendas', '-inf', text(at), 'WITHSCORES',
            'LIMIT', 0, count + 2)
        local account, next_turn
        for i = 1, #found, 2 do
            if account and not skipped[found[i]] then
                next_turn = found[i + 1]
                break
            elseif not skipped[found[i]] then
                account = found[i]
            end
        end
        if not account then
            return
        end
        local first = call('ZRANGE', base .. 'agenda:' .. account, 0, 0, 'WITHSCORES')
        if first[1] and tonumber(first[2]) <= tonumber(next_turn or at) then
            return account, first[1]
        elseif first[1] then
            call('ZADD', base .. 'agendas', first[2], account)
        else
            call('ZREM', base .. 'agendas', account)
        end
    end
end

-- Whether writes are kept; so it is when nobody can tell.
local function has_writes(at)
    local last, damage = try(call, 'ZRANGE', base .. 'writes', -1, -1, 'WITHSCORES')
    return (damage or last[1] and tonumber(last[2]) > at) and 1 or 0
end

-- ARGV: limit, lease, how many bytes of bodies, for how many seconds the claim is known as the last,
-- then the accounts that are skipped. Returns route, fence, that of the route's claim before it or 0,
-- whether there are writes, and what take returns of each delivery. A route with a damaged key holds
-- up no other, it is set aside: returns the error, gid and resource.
function calls.claim()
    local function lease(account, route, at)
        count_crashes(route)
        local due = call('ZRANGEBYSCORE', base .. 'queue:' .. route, '-inf', text(at),
            'LIMIT', 0, ARGV[1])
        local taken, ids = take(route, due, at, tonumber(ARGV[3]), true)
        if ids[1] then
            local leased_at, number = tick(1)
            local fence = format_number(number + 1)
            local previous = call('SET', base .. 'fence:' .. route, fence, 'GET', 'EX', ARGV[4])
            call('ZADD', base .. 'agenda:' .. account, text(leased_at + ARGV[2]), route)
            call('HSET', base .. 'leases', route, fence .. account)
            set_claimed(route, ids)
            previous = text(tonumber(previous or 0) or 0)
            return {route, fence, previous, has_writes(at), taken}
        end
        give_back(route, account)
    end

    local at, skipped = now(), {}
    for i = 5, #ARGV do
        skipped[ARGV[i]] = true
    end
    purge(at)
    while true do
        local account, route = find_turn(at, skipped, #ARGV - 4)
        if not account then
            return false
        end
        local claim, damage = try(lease, account, route, at)
        if claim then
            return claim
        elseif damage then
            call('ZREM', base .. 'agenda:' .. account, route)
            call('HDEL', base .. 'leases', route)
            local known = try(call, 'HMGET', base .. 'route:' .. route, 'gid', 'resource') or {}
            return {damage, known[1] or '', known[2] or ''}
        end
    end
end

-- ARGV: route, fence, limit, how many bytes of bodies. Returns whether there are writes, and what take
-- returns of each delivery that the claim holds from now on; or nil.
function calls.claim_more()
    local route, limit = ARGV[1], tonumber(ARGV[3])
    local account = find_lease(route, ARGV[2])
    if not account then
        return false
    end
    local at, claimed, due = now(), claimed_of(route), {}
    local is_claimed = set_of(claimed)
    for _, delivery in ipairs(call('ZRANGEBYSCORE', base .. 'queue:' .. route, '-inf', text(at),
        'LIMIT', 0, #claimed + limit)) do
        if not is_claimed[delivery] and #due < limit then
            due[#due + 1] = delivery
        end
    end
    local taken, ids = take(route, due, at, tonumber(ARGV[4]), false)
    for _, delivery in ipairs(ids) do
        claimed[#claimed + 1] = delivery
    end
    set_claimed(route, claimed)
    return {has_writes(at), taken}
end

-- ARGV: route, fence, lease
function calls.renew()
    local account = find_lease(ARGV[1], ARGV[2])
    if not account then
        return 0
    end
    call('ZADD', base .. 'agenda:' .. account, text(tick() + ARGV[3]), ARGV[1])
    return 1
end

-- Keeps how far a delivery came. Its worker lives, so of its crashes only one is remembered.
local function keep(route, delivery, attempts, progress)
    local kept = call('HGET', base .. 'progress:' .. route, delivery)
    local crashes = math.min(crashes_in(tries_in(kept)), 1)
    set_progress(route, delivery, attempts, crashes, progress)
end

local function put_off(route, at, delivery, delay, attempts, progress)
    keep(route, delivery, attempts, progress)
    if delay ~= '0' then
        call('ZADD', base .. 'queue:' .. route, 'XX', text(at + delay), delivery)
    end
end

local function remember(at, scope, events, known_for)
    local hour, entry = hour_of(at), struct.pack('>i8I4', at, #events) .. events
    local key = events_key(scope, hour)
    if call('APPEND', key, entry) == #entry then
        call('SET', key, entry, 'EX', known_for)
        call('ZREMRANGEBYSCORE', base .. 'settled', '-inf', text(hour - known_for / 3600 - 1))
        call('ZADD', base .. 'settled', text(hour), scope)
    end
end

-- Removes those of these deliveries that are claimed; they are so no longer.
local function remove_claimed(route, deliveries, is_claimed)
    local removed = {}
    for delivery in deliveries:gmatch('%S+') do
        if is_claimed[delivery] then
            removed[#removed + 1] = delivery
            is_claimed[delivery] = nil
        end
    end
    remove(route, removed)
end

local function remaining_of(claimed, is_claimed)
    local remaining = {}
    for _, delivery in ipairs(claimed) do
        remaining[#remaining + 1] = is_claimed[delivery] and delivery
    end
    return remaining
end

-- ARGV: route, fence, 1 to give the lease back, a scope, its events or nothing, for how many
-- seconds they are known, the numbers of the deliveries that are removed, how many are kept and tried
-- again; then of each that is kept: number, attempts, progress; tried again: number or nothing, delay
-- or 0, attempts, progress, and of a new one record and trace; for each letter: route, progress, note,
-- record. What the claim does not hold is passed over. Returns the ids of the letters, or nil.
--
-- Deliveries are removed last, so that a damaged key, which ends a script midway, loses none; and
-- no event is remembered whose letter cannot be written.
function calls.settle()
    local route, letters = ARGV[1], {}
    local account = find_lease(route, ARGV[2])
    if not account then
        return false
    end
    local first_kept = 10
    local first_retry = first_kept + 3 * ARGV[8]
    local first_letter = first_retry + 6 * ARGV[9]
    local at, claimed = now(), claimed_of(route)
    local is_claimed = set_of(claimed)

    if first_letter <= #ARGV then
        call('XLEN', base .. 'letters')
    end
    if ARGV[5] ~= '' then
        remember(at, unpack(ARGV, 4, 6))
    end
    for i = first_letter, #ARGV, 4 do
        letters[#letters + 1] = bury(unpack(ARGV, i, i + 3))
    end
    for i = first_kept, first_retry - 1, 3 do
        if is_claimed[ARGV[i]] then
            keep(route, unpack(ARGV, i, i + 2))
        end
    end
    for i = first_retry, first_letter - 1, 6 do
        if ARGV[i] == '' then
            add_delivery(route, at + ARGV[i + 1], unpack(ARGV, i + 2, i + 5))
        elseif is_claimed[ARGV[i]] then
            put_off(route, at, unpack(ARGV, i, i + 3))
            is_claimed[ARGV[i]] = nil
        end
    end
    remove_claimed(route, ARGV[7], is_claimed)
    if ARGV[3] == '1' then
        give_back(route, account)
    else
        set_claimed(route, remaining_of(claimed, is_claimed))
    end
    return letters
end

-- ARGV: scope, for how long before now events are wanted. Returns since when, and the strings that may hold
-- some, oldest first. One that something else has written to is left out.
function calls.remembered()
    local at, found = now(), {}
    local since = at - ARGV[2]
    for hour = hour_of(since), hour_of(at) do
        found[#found + 1] = try(call, 'GET', events_key(ARGV[1], hour)) or nil
    end
    return {text(since), found}
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
    for _, account in ipairs(call('ZRANGE', base .. 'agendas', 0, -1)) do
        for _, route in ipairs(call('ZRANGE', base .. 'agenda:' .. account, 0, -1)) do
            local at = try(received_at, route)
            if at and at < (oldest or math.huge) then
                oldest = at
            end
        end
    end
    local waiting, letters = counter('waiting') + counter('held'), call('XLEN', base .. 'letters')
    return {waiting, letters, oldest and text(oldest) or false}
end
