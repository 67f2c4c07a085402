-- KEYS: lease. ARGV: token, the channel of ended leases.
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 1, 16) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  if #lease > 32 then
    redis.call('PUBLISH', ARGV[2], KEYS[1])
  end
end
return redis.status_reply('OK')
