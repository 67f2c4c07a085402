-- The fence of the claim that holds a job.
local function holder(id)
  local run = call('HGET', P .. 'run', id)
  return run and string.match(run, '^%d+')
end

local function end_claim(fence)
  call('HDEL', P .. 'left', fence)
  call('DEL', P .. 'c:' .. fence)
  call('ZREM', P .. 'leases', fence)
end

-- The job is not this claim's any more; the last one ends it. Its first write is one that a full memory does not refuse, and
-- after it the script may grow: what a worker ends must not wait for room.
local function let_go(id, fence)
  call('HDEL', P .. 'run', id)
  if call('HINCRBY', P .. 'left', fence, -1) <= 0 then end_claim(fence) end
end
