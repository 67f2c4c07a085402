-- KEYS: lease. ARGV: token.
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 16) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return redis.status_reply('OK')
