-- ARGV: limit, where to begin, where to end
function calls.letters()
    return redis.call('XRANGE', KEYS[1] .. 'letters', ARGV[2], ARGV[3], 'COUNT', ARGV[1])
end

-- ARGV: the ids of letters
function calls.replay()
    local letters, at, count = base .. 'letters', tick(), 0
    for i = 1, #ARGV do
        local found = call('XRANGE', letters, ARGV[i], ARGV[i])
        if found[1] then
            local letter, delivery = found[1][2], add_number(at)
            local route, done, record = letter[2], letter[4], letter[8]
            call('HSET', base .. 'deliveries:' .. route, delivery, record)
            call('HSET', base .. 'tries:' .. route, delivery, string.format('%010d%010d', 0, done))
            enqueue(route, delivery, at)
            call('XDEL', letters, ARGV[i])
            count = count + 1
        end
    end
    call('INCRBY', base .. 'waiting', count)
    return count
end

-- ARGV: the ids of letters
function calls.discard()
    local count = 0
    for i = 1, #ARGV do
        count = count + redis.call('XDEL', KEYS[1] .. 'letters', ARGV[i])
    end
    return count
end
