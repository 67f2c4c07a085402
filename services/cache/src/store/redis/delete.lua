-- KEYS: what the names of the shard's keys begin with, which is no key itself (see Script::new). ARGV: the channel of ended
-- leases, names of entries.
for at = 2, #ARGV do
  local LEASE = KEYS[1] .. 'l:' .. ARGV[at]
  local lease = redis.call('GETDEL', LEASE)
  redis.call('UNLINK', KEYS[1] .. 'e:' .. ARGV[at])
  if lease and #lease > 32 then
    redis.call('PUBLISH', ARGV[1], LEASE)
  end
end
return redis.status_reply('OK')
