-- ARGV: the epoch and the stamp of the intent, tags. Answers {process}.
local INTENTS = KEYS[1] .. 'w'
local epoch, run = epoch_of_shard()
local now = tick()
local counted = tonumber(ARGV[6]) == epoch and tonumber(ARGV[7]) >= now
for at = 8, #ARGV do
  local member = '#' .. ARGV[at]
  local open = counted and tonumber(call('HGET', INTENTS, ARGV[at]))
  if open and open <= 1 then
    call('HDEL', INTENTS, ARGV[at])
    call('ZADD', STATE, exact(now), member)
  else
    if open then call('HSET', INTENTS, ARGV[at], open - 1) end
    stamp(member, now)
  end
end
return { exact(run) }
