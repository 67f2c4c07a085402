-- KEYS: what the names of the shard's keys begin with, which is no key itself (see Script::new). ARGV: the channel of ended
-- leases, the name of the entry.
local LEASE = KEYS[1] .. 'l:' .. ARGV[2]
local lease = redis.call('GETDEL', LEASE)
redis.call('UNLINK', KEYS[1] .. 'e:' .. ARGV[2])
if lease and #lease > 32 then
  redis.call('PUBLISH', ARGV[1], LEASE)
end
return redis.status_reply('OK')
