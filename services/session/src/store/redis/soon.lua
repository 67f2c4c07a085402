-- KEYS[1] as the second of `lease.lua`. ARGV: a bucket, and in how many ms a session in it may end.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], 'LT', now + tonumber(ARGV[2]), ARGV[1])
