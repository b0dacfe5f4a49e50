local calls = {}
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

local function find_slot(route, mark)
    local slot = 1
    while route['candidate' .. slot] ~= mark and route['candidate' .. slot] do
        slot = slot + 1
    end
    return slot, route['candidate' .. slot] == mark
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
    call('DECRBY', base .. 'waiting', #held)
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
    unlist(route.id, route.resource)
    call('DEL', base .. 'route:' .. route.id)
end

local function purge(at)
    for _, id in ipairs(call('ZRANGEBYSCORE', base .. 'expiries', '-inf', text(at))) do
        forget(find(id, 0) or {id = id, resource = ''})
    end
end

local function count_waiting()
    return tonumber(call('GET', base .. 'waiting') or 0)
end

local function add_numbers(count, at)
    local last = math.max(tonumber(call('GET', base .. 'number') or 0), at)
    call('SET', base .. 'number', text(last + count))
    return last
end

local function add_number(at)
    return string.format('%016d', add_numbers(1, at) + 1)
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

local function is_leased(route, fence)
    return call('HGET', base .. 'leases', route) == fence
end

local function remove(route, first, last)
    local gone = 0
    for i = first, last do
        if call('ZREM', base .. 'queue:' .. route, ARGV[i]) == 1 then
            call('HDEL', base .. 'deliveries:' .. route, ARGV[i])
            call('HDEL', base .. 'tries:' .. route, ARGV[i])
            call('HDEL', base .. 'traces:' .. route, ARGV[i])
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

local function bury(route, done, note, record)
    call('XADD', base .. 'letters', '*',
        'route', route, 'done', done, 'note', note, 'record', record)
end
