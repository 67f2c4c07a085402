-- KEYS: 1 the lease, 2 a zset of buckets by when they are to be looked at before their turn, which `soon.lua` fills. ARGV: 1 who
-- asks, 2 for how many ms. Answers whether he holds it, old or new, the time, how long another still holds it, and to the
-- holder the buckets, which are then his to remember.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, now, redis.call('PTTL', KEYS[1]), {}} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local soon = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
if #soon > 0 then redis.call('DEL', KEYS[2]) end
return {1, now, 0, soon}
