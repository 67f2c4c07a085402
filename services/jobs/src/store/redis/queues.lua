-- KEYS: 1 the registry of queues: name and when it was last used, in Redis' seconds.
-- ARGV: 1 most queues, 2.. queues in use. Answers the names that there was no room for.
local now = redis.call('TIME')[1]
local refused = {}
for index = 2, #ARGV do
  local queue = ARGV[index]
  if redis.call('ZSCORE', KEYS[1], queue) or redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('ZADD', KEYS[1], now, queue)
  else
    refused[#refused + 1] = queue
  end
end
return refused
