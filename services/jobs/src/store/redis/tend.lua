-- ARGV: 3 steps at most. Promotes what is due, gives back what was lost and forgets what is over.
-- Answers {ready jobs, ms until something is due or -1}.
allow_growth()
local max = tonumber(ARGV[3])
local steps = promote(max)
local again = steps >= max
if not again then
  local ready = {}
  -- One more than the steps allow would be the next call's.
  for _, fence in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, max)) do
    if steps >= max then
      again = true
      break
    end
    -- Only jobs that are still this claim's: others were finished, or are another worker's.
    local ids = held(fence)
    for _, id in ipairs(ids) do
      local s = P .. 's:' .. id
      local attempt = tonumber(redis.call('HGET', s, 'a'))
      redis.call('HINCRBY', s, 'a', -1)
      if redis.call('HINCRBY', s, 'l', 1) >= LOST_MAX then
        add_error(s, attempt, LOST_MAX .. ' leases ran out without an answer')
        local _, _, retention = limits(redis.call('GETRANGE', P .. 'j:' .. id, 0, 18))
        finish(id, 6, retention)
      else
        redis.call('HSET', s, 'st', 2)
        ready[#ready + 1] = id
      end
      note(id, redis.call('HINCRBY', s, 'v', 1))
    end
    steps = steps + 1 + #ids
    end_claim(fence, ids)
  end
  push('RPUSH', ready)
end
-- What was finished and is forgotten leaves the lists of finished jobs.
for _, state in ipairs({ 4, 6, 7 }) do
  local gone = redis.call('ZRANGEBYSCORE', P .. 'z:' .. state, '-inf', now, 'LIMIT', 0, max)
  chunked('ZREM', P .. 'z:' .. state, gone)
  again = again or #gone == max
end
tell()

local next = -1
for _, key in ipairs({ 'd', 'leases' }) do
  local first = redis.call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')[2]
  if first then
    local within = math.max(0, tonumber(first) - now)
    if next == -1 or within < next then next = within end
  end
end
-- What ended and is to be forgotten may wait a little, so that many go together.
for _, state in ipairs({ 4, 6, 7 }) do
  local first = redis.call('ZRANGE', P .. 'z:' .. state, 0, 0, 'WITHSCORES')[2]
  if first then
    local within = math.max(0, tonumber(first) - now) + 5000
    if next == -1 or within < next then next = within end
  end
end
if again then next = 0 end
return { redis.call('LLEN', READY), next }
