-- ARGV: limit, where to begin, where to end, how many bytes of bodies
function calls.letters()
    local found, bytes, begin = {}, 0, ARGV[2]
    while #found < tonumber(ARGV[1]) do
        local letter = call('XRANGE', base .. 'letters', begin, ARGV[3], 'COUNT', 1)[1]
        bytes = bytes + (letter and #(letter[2][8] or '') - HEADER or 0)
        if not letter or found[1] and bytes > tonumber(ARGV[4]) then
            break
        end
        found[#found + 1] = letter
        begin = '(' .. letter[1]
    end
    return found
end

-- ARGV: the ids of letters. One that cannot be read stays where it is.
function calls.replay()
    local at, count = tick(), 0
    for i = 1, #ARGV do
        local found = call('XRANGE', base .. 'letters', ARGV[i], ARGV[i])
        local letter = found[1] and found[1][2] or {}
        local route, kind, progress, record = letter[2], letter[3], letter[4], letter[8]
        local handled = kind == 'done' and tonumber(progress) -- as layouts before 3 have it
        if is_readable(record) and (handled or kind == 'progress') then
            local delivery = add_number()
            call('HSET', base .. 'deliveries:' .. route, delivery, record)
            set_progress(route, delivery, 0, 0, handled and progress_after(handled) or progress)
            enqueue(route, delivery, at)
            count = count + unbury(route, ARGV[i])
        end
    end
    call('INCRBY', base .. 'waiting', count)
    return count
end

-- ARGV: the ids of letters
function calls.discard()
    local count = 0
    for i = 1, #ARGV do
        local found = call('XRANGE', base .. 'letters', ARGV[i], ARGV[i])[1]
        count = count + (found and unbury(found[2][2], ARGV[i]) or 0)
    end
    return count
end
