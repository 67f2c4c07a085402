-- KEYS: entry, lease. ARGV: the channel of ended leases.
local lease = redis.call('GET', KEYS[2])
redis.call('UNLINK', KEYS[1], KEYS[2])
if lease and #lease > 32 then
  redis.call('PUBLISH', ARGV[1], KEYS[2])
end
return redis.status_reply('OK')
