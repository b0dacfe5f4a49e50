-- Sends each delivery of a table once, for some seconds. Then it asks for /healthz until wrk ends,
-- so that every delivery is answered and what was sent can be compared with what was handled.
--
-- wrk ... -s _wrk.lua URL -- FOLDER WARM_UP SECONDS

local ffi = require("ffi")
ffi.cdef([[
  typedef struct { long seconds; long nanoseconds; } lab_time;
  int clock_gettime(int clock, lab_time *time);
]])
local MONOTONIC = jit.os == "OSX" and 6 or 1
local reading = ffi.new("lab_time")

local function clock()
  ffi.C.clock_gettime(MONOTONIC, reading)
  return tonumber(reading.seconds) + tonumber(reading.nanoseconds) / 1e9
end

local PROBE = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
local head, parts, signatures, first, count
local warm_up, seconds, measured_from, measured_until
local looked_at = false

-- Read by done(), which runs in another state of Lua.
sent, measured, probes, ended, exhausted = 0, 0, 0, 0, false

local function read(folder, name)
  local file = assert(io.open(folder .. "/" .. name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  local folder = arguments[1]
  warm_up, seconds = tonumber(arguments[2]), tonumber(arguments[3])
  head, parts = read(folder, "head"), {}
  for part in read(folder, "parts"):gmatch("[^\n]+") do
    parts[#parts + 1] = part
  end
  signatures, first = read(folder, "signatures"), tonumber(read(folder, "first"))
  count = #signatures / 64
end

local function probe()
  probes = probes + 1
  return PROBE
end

function request()
  if not looked_at then  -- wrk looks at one request that it does not send
    looked_at = true
    return PROBE
  end
  local now = clock()
  if not measured_from then
    measured_from = now + warm_up
    measured_until = measured_from + seconds
  end
  if now >= measured_until then
    return probe()
  end
  if sent == count then
    exhausted = true
    return probe()
  end
  local number = sent
  sent, ended = sent + 1, now
  if now >= measured_from then
    measured = measured + 1
  end
  local signature = signatures:sub(64 * number + 1, 64 * number + 64)
  local serial = string.format("%.0f", first + number)
  return head .. signature .. "\r\n\r\n" .. table.concat(parts, serial)
end

function done(summary)
  local thread, errors = threads[1], summary.errors
  io.write(string.format(
    '\n{"sent":%d,"measured":%d,"probes":%d,"ended":%.6f,"exhausted":%s,"answered":%d,"refused":%d,"failed":%d}\n',
    thread:get("sent"), thread:get("measured"), thread:get("probes"), thread:get("ended"),
    tostring(thread:get("exhausted")), summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
