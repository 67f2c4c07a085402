-- Before every script. KEYS[1] is what all keys of the queue begin with, hash tag included; ARGV[1] is the channel that
-- clones listen to and ARGV[2] the queue's name.
local P = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local READY = P .. 'r::1'
local TAIL = 26
local LOST_MAX = 3
local changed = {}

-- Variadic calls get at most this many arguments at once: Redis reuses the first 32, and unpack has a limit.
local CHUNK = 30
local function chunked(command, key, list)
  for from = 1, #list, CHUNK do
    redis.call(command, key, unpack(list, from, math.min(from + CHUNK - 1, #list)))
  end
end

-- Work goes on when the memory is full, or it would never get less: after its first write a script may grow.
local function allow_growth()
  redis.call('HDEL', P .. 'left', '')
end

local function note(id, version)
  changed[#changed + 1] = id .. version
end

-- How many jobs are scheduled (1), ready (2) and retrying (5): the lists may hold some that were cancelled.
local counts = {}
local function count(state, delta)
  counts[state] = (counts[state] or 0) + delta
end

-- One packed entry for everything this script changed.
local function tell()
  for state, delta in pairs(counts) do
    if delta ~= 0 then redis.call('HINCRBY', P .. 'k', state, delta) end
  end
  if #changed > 0 then
    redis.call('XADD', P .. 'ev', 'MAXLEN', '~', 10000, '*', 'e', table.concat(changed, ' '))
  end
end

-- Puts jobs that are ready at the end of the queue, or at its head; wakes workers if it was empty.
local function push(command, ids)
  if #ids == 0 then return end
  count('2', #ids)
  local before = redis.call('LLEN', READY)
  chunked(command, READY, ids)
  if before == 0 then redis.call('PUBLISH', ARGV[1], 'r' .. ARGV[2]) end
end

-- Lets a job wait for a moment, scheduled or retrying; tells the clones if nothing was due earlier.
local function wait_until(id, state, moment)
  count(state, 1)
  local first = redis.call('ZRANGE', P .. 'd', 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', P .. 'd', moment, id)
  if not first or moment < tonumber(first) then
    redis.call('PUBLISH', ARGV[1], 'd' .. math.max(0, moment - now) .. ' ' .. ARGV[2])
  end
end

-- Makes ready what is due, at most so many; how many.
local function promote(max)
  local due = redis.call('ZRANGEBYSCORE', P .. 'd', '-inf', now, 'LIMIT', 0, max)
  if #due == 0 then return 0 end
  local ready = {}
  for _, id in ipairs(due) do
    local s = P .. 's:' .. id
    local state = redis.call('HGET', s, 'st')
    if state == '1' or state == '5' then
      redis.call('HSET', s, 'st', 2)
      note(id, redis.call('HINCRBY', s, 'v', 1))
      count(state, -1)
      ready[#ready + 1] = id
    end
  end
  chunked('ZREM', P .. 'd', due)
  push('RPUSH', ready)
  return #due
end

-- The part of a header that scripts need.
local function limits(header)
  local attempts, backoff, retention = struct.unpack('>I2I4I4', header, 10)
  return attempts, backoff, retention
end

-- A job becomes final and is readable for its retention. The header goes first: without it nobody reads the rest.
local function finish(id, state, retention)
  redis.call('HSET', P .. 's:' .. id, 'st', state, 'fm', now)
  redis.call('PEXPIRE', P .. 'j:' .. id, retention)
  redis.call('PEXPIRE', P .. 's:' .. id, retention + 60000)
  redis.call('ZADD', P .. 'z:' .. state, now + retention, id)
end

-- The fence of the claim that holds a job.
local function holder(id)
  local run = redis.call('HGET', P .. 'run', id)
  return run and string.match(run, '^%d+')
end

-- The job is not this claim's any more; the last one ends it.
local function let_go(id, fence)
  redis.call('HDEL', P .. 'run', id)
  if redis.call('HINCRBY', P .. 'left', fence, -1) <= 0 then
    redis.call('HDEL', P .. 'left', fence)
    redis.call('DEL', P .. 'c:' .. fence)
    redis.call('ZREM', P .. 'leases', fence)
  end
end

-- The ids of a claim that it still holds, in order.
local function held(fence)
  local all = redis.call('GET', P .. 'c:' .. fence) or ''
  local ids = {}
  for from = 1, #all, TAIL do
    local id = string.sub(all, from, from + TAIL - 1)
    if holder(id) == fence then ids[#ids + 1] = id end
  end
  return ids
end

local function end_claim(fence, ids)
  if #ids > 0 then chunked('HDEL', P .. 'run', ids) end
  redis.call('HDEL', P .. 'left', fence)
  redis.call('DEL', P .. 'c:' .. fence)
  redis.call('ZREM', P .. 'leases', fence)
end

-- Errors are a ring of ten fields.
local function add_error(s, attempt, message)
  local n = redis.call('HINCRBY', s, 'en', 1)
  redis.call('HSET', s, 'e' .. (n - 1) % 10, attempt .. ' ' .. now .. ' ' .. message)
end

-- A job as Rust reads it.
local function job(id)
  return { redis.call('GET', P .. 'j:' .. id), redis.call('HGETALL', P .. 's:' .. id) }
end
