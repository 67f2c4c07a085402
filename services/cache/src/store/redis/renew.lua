-- KEYS: lease. ARGV: token, limit in ms. Answers 1 if the token still holds it.
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 1, 16) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
