-- Comes before the scripts that write. KEYS: what the names of the shard's keys begin with, which is no key itself (see
-- Script::new). ARGV: the process the caller thinks it talks
-- to (or 0), since when that process is back after another one was in its place (or 0), a random epoch in case one is needed,
-- the state's ttl in ms, the channel of ended leases; a script's own arguments follow, and the name of
-- the entry is the last one.
local call, STATE, NAME = redis.call, KEYS[1] .. 't', ARGV[#ARGV]
local ENTRY, LEASE = KEYS[1] .. 'e:' .. NAME, KEYS[1] .. 'l:' .. NAME
local clock

local function micros()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The epoch of the shard, and the process it was made in. The state is trusted while the caller's guess agrees with it, and
-- not if it was made before that process came back. A caller that reads what is there compares the process with the one that
-- its connection leads to; should both the guess and the state be of a process that is gone, then what a script writes here is
-- seen by no reader. Without a guess Redis is asked (some 10 us).
local function epoch_of_shard()
  local state = call('ZMSCORE', STATE, 'e', 'r', 'c', 'm')
  local epoch, run, since = tonumber(state[1]), tonumber(state[2]), tonumber(ARGV[2])
  clock = tonumber(state[3])
  local fresh = since == 0 or since <= (tonumber(state[4]) or 0)
  if epoch and run and fresh and run == tonumber(ARGV[1]) then
    return epoch, run
  end
  local id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  local this = tonumber(string.sub(id, 1, 13), 16)
  if not epoch or run ~= this or not fresh then
    epoch = tonumber(ARGV[3])
    call('ZADD', STATE, epoch, 'e', this, 'r', math.max(micros(), since), 'm')
    call('PEXPIRE', STATE, ARGV[4])
  end
  return epoch, this
end

-- The next tick of the shard's logical clock, stored, and Redis' time; microseconds. Never goes back, whatever TIME does. The
-- state's life is drawn out once a day.
local DAY = 86400000000
local function tick()
  local now, last = micros(), clock or 0
  clock = math.max(last + 1, now)
  call('ZADD', STATE, clock, 'c')
  if math.floor(clock / DAY) ~= math.floor(last / DAY) then call('PEXPIRE', STATE, ARGV[4]) end
  return clock, now
end

local function store(epoch, built, now, ttl, lead, tail)
  local head = struct.pack('>dddd', epoch, built, 0, now + tonumber(ttl) * 1000)
  call('SET', ENTRY, lead .. head .. tail, 'PX', ttl)
end

-- A double as text without loss.
local function exact(number)
  return string.format('%.0f', number)
end

-- Tells those who wait for the end of a lease that has ended.
local function tell(lease)
  if lease and #lease > 32 then call('PUBLISH', ARGV[5], LEASE) end
end
