-- Precedes every script. KEYS[1] is the bucket's base, "PREFIX{bXX}:": all keys of a bucket begin with it, so they share a
-- slot. No key is called KEYS[1] itself, and each command names one key: while a Cluster moves the slot to another node,
-- Redis refuses scripts by that key before they begin, and they run on the other node once the last key is there.
-- ARGV[1] is the number of events to keep; ARGV[2] and on are the script's own. Defining a function costs time in each run,
-- called or not: functions that not every script calls are in files of their own.
--
-- base .. 's:' .. id    string  MessagePack map of strings: u user, c created, i idle ms, x absolute end, e end, v version,
--                               h hash of the token's secret, n hash of the named successor, o retired hashes, m metadata,
--                               'a:' .. name attributes. The key expires at e. One string is read for a third of what a
--                               hash costs, here and in the clone; changes are scripts, so none is lost.
-- base .. 'u:' .. user  zset    id by creation
-- base .. 'e'           zset    id .. user by a time no later than the session's end
-- base .. 'r:' .. key   string  id .. fingerprint of the call that a request_id named
-- base .. 'v'           stream  k kind, s id, u user
local call, base = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ID, HASH = 32, 32
