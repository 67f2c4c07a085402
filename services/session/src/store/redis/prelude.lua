-- What every script has in front. KEYS[1] is the bucket's base, "PREFIX{bXX}:": all keys of a bucket begin with it, so
-- they share a slot. ARGV[1] is the number of events to keep; ARGV[2] and on are the script's own.
--
-- base .. 's:' .. id    string  MessagePack map of strings: u user, c created, i idle ms, x absolute end, e end, v version,
--                               h hash of the token's secret, n hash of the named successor, o retired hashes, m metadata,
--                               'a:' .. name attributes. The key expires at e. One string is read for a third of what a
--                               hash costs, here and in the clone; changes are scripts, so none is lost.
-- base .. 'u:' .. user  zset    id by creation
-- base .. 'e'           zset    id .. user by a time no later than the session's end
-- base .. 'r:' .. key   string  id .. fingerprint of what a request_id made
-- base .. 'v'           stream  k kind, s id, u user
local base = KEYS[1]
local sessions, users, expiries, events = base .. 's:', base .. 'u:', base .. 'e', base .. 'v'
local events_kept = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ID, HASH, RETIRED, RETIRED_MAX = 32, 32, 32 + 13, 8

local function emit(kind, id, user)
  redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 'k', kind, 's', id, 'u', user)
end

-- What reads a session or ends it goes on when the memory is full: a script that has written may grow. Nothing has this key.
local function allow_growth()
  redis.call('DEL', base)
end

-- Takes a session away with its index entries, and says why.
local function finish(kind, id, user)
  redis.call('DEL', sessions .. id)
  redis.call('ZREM', users .. user, id)
  redis.call('ZREM', expiries, id .. user)
  emit(kind, id, user)
end

-- A session, or nothing.
local function fetch(id)
  local packed = redis.call('GET', sessions .. id)
  return packed and cmsgpack.unpack(packed)
end

-- Writes back what was fetched in this script: never what is gone meanwhile. Its end stays what it is, or is the one given.
local function save(id, session, ends)
  if ends then
    redis.call('SET', sessions .. id, cmsgpack.pack(session), 'XX', 'PXAT', ends)
  else
    redis.call('SET', sessions .. id, cmsgpack.pack(session), 'XX', 'KEEPTTL')
  end
end

-- The whole record as get reads it, and the time.
local function record(id)
  return {redis.call('GET', sessions .. id), now}
end

-- Records a use of what was fetched, for the caller to save with the end that it answers: never beyond the absolute end, and
-- never shorter.
local function touch(session)
  local ends = math.min(math.max(now + session.i, tonumber(session.e)), tonumber(session.x))
  session.e = string.format('%d', ends)
  return ends
end
