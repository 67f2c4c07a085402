-- KEYS: 1 the registry of queues. ARGV: 1 queue, 2 seconds. Drops a queue that nobody used for so long.
local used = redis.call('ZSCORE', KEYS[1], ARGV[1])
if used and tonumber(used) + tonumber(ARGV[2]) <= tonumber(redis.call('TIME')[1]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
