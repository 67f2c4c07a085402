-- KEYS: 1 what the schedule's keys begin with, which no key is (see prelude.lua). due is a zset of queues by when something of each is due; claimed one of those
-- that a clone is looking at, by when another may.
-- ARGV: 1 most queues, 2 for how long they are claimed in ms, 3 number of queues that were looked at, then these, then pairs
-- of a queue and in how many ms something of it is due. Answers queues of which something is due, and claims them.
-- What is due comes when the memory is full too (growth.lua): nothing has this key.
redis.call('DEL', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due, claimed = KEYS[1] .. 'due', KEYS[1] .. 'claimed'
local settled = tonumber(ARGV[3])
for at = 4, 3 + settled do redis.call('ZREM', claimed, ARGV[at]) end
for at = 4 + settled, #ARGV, 2 do redis.call('ZADD', due, 'LT', now + tonumber(ARGV[at + 1]), ARGV[at]) end
for _, queue in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', claimed, queue)
  redis.call('ZADD', due, 'LT', now, queue)
end
local queues = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[1])
for _, queue in ipairs(queues) do
  redis.call('ZREM', due, queue)
  redis.call('ZADD', claimed, now + tonumber(ARGV[2]), queue)
end
return queues
