-- Ready ids, in the order of their turns: those of FIRST, then those of READY. FIRST is there after a cleaning: see cancel.lua.
local READY, FIRST = P .. 'r::1', P .. 'r::1:first'

-- Variadic calls get at most this many arguments at once: Redis reuses the first 32, and unpack has a limit. Answers what
-- the last call did.
local CHUNK = 30
local function chunked(command, key, list)
  local last
  for from = 1, #list, CHUNK do
    last = call(command, key, unpack(list, from, math.min(from + CHUNK - 1, #list)))
  end
  return last
end

-- Puts jobs that are ready at the end of the queue, or at its head; wakes workers if it was empty.
local function push(command, ids)
  if #ids == 0 then return end
  count('2', #ids)
  local key = READY
  if command == 'LPUSH' and call('EXISTS', FIRST) == 1 then key = FIRST end
  if chunked(command, key, ids) == #ids then call('PUBLISH', ARGV[1], 'r' .. ARGV[2]) end
end
