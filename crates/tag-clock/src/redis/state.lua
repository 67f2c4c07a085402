-- Comes before every script of a shard. KEYS: what the names of the shard's keys begin with, which is no key itself (see
-- Script::new). ARGV: the process the caller thinks it talks to (or 0), since when that process is back after another one was in its
-- place (or 0), a random epoch in case one is needed, the state's ttl in ms, the microseconds for which a new epoch keeps nothing; a
-- script's own arguments follow.
local call, STATE = redis.call, KEYS[1] .. 't'
local clock, floor

local function micros()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A number as text without loss.
local function exact(number)
  return string.format('%.0f', number)
end

-- The epoch of the shard, and the process it was made in. The state is trusted while the caller's guess agrees with it, and
-- not if it was made before that process came back. A caller that reads what is there compares the process with the one that
-- its connection leads to; should both the guess and the state be of a process that is gone, then what a script writes here is
-- seen by no reader. Without a guess Redis is asked (some 10 us).
local function epoch_of_shard()
  local state = call('ZMSCORE', STATE, 'e', 'r', 'c', 'm', 'f')
  local epoch, run, since = tonumber(state[1]), tonumber(state[2]), tonumber(ARGV[2])
  clock, floor = tonumber(state[3]) or 0, tonumber(state[5]) or 0
  local fresh = since == 0 or since <= (tonumber(state[4]) or 0)
  if epoch and run and fresh and run == tonumber(ARGV[1]) then
    return epoch, run
  end
  local id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  local this = tonumber(string.sub(id, 1, 13), 16)
  if not epoch or run ~= this or not fresh then
    epoch = tonumber(ARGV[3])
    local now, quiet = micros(), tonumber(ARGV[5])
    call('ZADD', STATE, epoch, 'e', this, 'r', math.max(now, since), 'm')
    -- The intents of writes that are under way may be lost: nothing loaded before they run out is kept.
    if quiet > 0 then
      floor = math.max(floor, math.max(clock, now) + quiet)
      call('ZADD', STATE, exact(floor), 'f')
    end
    call('PEXPIRE', STATE, ARGV[4])
  end
  return epoch, this
end

-- The next tick of the shard's logical clock, stored, and Redis' time; microseconds. Never goes back, whatever TIME does. The
-- state's life is drawn out once a day.
local DAY = 86400000000
local function tick()
  local now, last = micros(), clock
  clock = math.max(last + 1, now)
  call('ZADD', STATE, exact(clock), 'c')
  if math.floor(clock / DAY) ~= math.floor(last / DAY) then call('PEXPIRE', STATE, ARGV[4]) end
  return clock, now
end

-- Stamps a tag; a stamp never goes back.
local function stamp(member, at)
  call('ZADD', STATE, 'GT', exact(at), member)
end

-- Drops the oldest stamps past `most`, and raises the floor to the newest of them.
local function trim(most)
  if call('ZCARD', STATE) <= most then return end
  local oldest = call('ZRANGE', STATE, 0, 63, 'WITHSCORES')
  local before = floor
  for at = 1, #oldest, 2 do
    if #oldest[at] > 1 then
      call('ZREM', STATE, oldest[at])
      floor = math.max(floor, tonumber(oldest[at + 1]))
    end
  end
  if floor > before then call('ZADD', STATE, exact(floor), 'f') end
end
