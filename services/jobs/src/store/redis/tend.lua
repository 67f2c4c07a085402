-- ARGV: 3 steps at most. Promotes what is due, gives back what was lost and forgets what is over.
-- Answers {ready jobs, ms until something is due or -1, jobs whose lease ran out}.
allow_growth()
local LOST_MAX = 3
local max = tonumber(ARGV[3])
local steps = promote(max)
local again, lost_jobs = steps >= max, 0
if not again then
  local ready = {}
  -- One more than the steps allow would be the next call's.
  for _, fence in ipairs(call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, max)) do
    if steps >= max then
      again = true
      break
    end
    -- Only jobs that are still this claim's: others were finished, or are another worker's.
    local ids = held(fence)
    for _, id in ipairs(ids) do
      local s = P .. 's:' .. id
      local stood = call('HMGET', s, 'a', 'l', 'v', 'en')
      local attempt, lost, version = tonumber(stood[1]), (stood[2] or 0) + 1, stood[3] + 1
      if lost >= LOST_MAX then
        local errors, text = (stood[4] or 0) + 1, string.format('%d', now)
        local message = LOST_MAX .. ' leases ran out without an answer'
        -- Errors are a ring of ten fields.
        local at = 'e' .. (errors - 1) % 10
        call('HSET', s, 'en', errors, at, attempt .. ' ' .. text .. ' ' .. message)
        call('HSET', s, 'st', 6, 'a', attempt - 1, 'l', lost, 'v', version, 'fm', text)
        local _, _, retention = limits(call('GETRANGE', P .. 'j:' .. id, 0, 18))
        forget(id, 6, retention)
      else
        call('HSET', s, 'st', 2, 'a', attempt - 1, 'l', lost, 'v', version)
        ready[#ready + 1] = id
      end
      note(id, version)
    end
    steps = steps + 1 + #ids
    lost_jobs = lost_jobs + #ids
    if #ids > 0 then chunked('HDEL', P .. 'run', ids) end
    end_claim(fence)
  end
  push('RPUSH', ready)
end
-- What was finished and is forgotten leaves the lists of finished jobs.
for _, state in ipairs({ 4, 6, 7 }) do
  local gone = call('ZRANGEBYSCORE', P .. 'z:' .. state, '-inf', now, 'LIMIT', 0, max)
  chunked('ZREM', P .. 'z:' .. state, gone)
  again = again or #gone == max
end
tell()

-- What was cancelled while it was ready.
local all, dead = in_lists()
if dead > 0 and (dead == all or dead > all - dead + DEAD_MAX) then
  again = clean(max) > 0 or again
end

local next = -1
for _, key in ipairs({ 'd', 'leases' }) do
  local first = call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')[2]
  if first then
    local within = math.max(0, tonumber(first) - now)
    if next == -1 or within < next then next = within end
  end
end
-- What ended and is to be forgotten may wait a little, so that many go together.
for _, state in ipairs({ 4, 6, 7 }) do
  local first = call('ZRANGE', P .. 'z:' .. state, 0, 0, 'WITHSCORES')[2]
  if first then
    local within = math.max(0, tonumber(first) - now) + 5000
    if next == -1 or within < next then next = within end
  end
end
if again then next = 0 end
return { all, next, lost_jobs }
