-- Comes before the scripts that write. KEYS: state, entry, lease of one shard. ARGV: the process the caller thinks it talks
-- to (or 0), a random epoch in case one is needed, the state's ttl in ms, the channel of ended leases; a script's own
-- arguments follow.
local STATE, ENTRY, LEASE = KEYS[1], KEYS[2], KEYS[3]
local EPOCH_AT, FLAGS_AT = 2, 1 -- offsets in an entry, see frame.rs

-- The epoch of the shard, and the process it was made in. The state is trusted while the caller's guess agrees with it:
-- should both be of a process that is gone, then what a script writes here is seen by no reader, for readers know the
-- process from their connection. A script that answers what is there is given no guess, and asks (some 10 us).
local function epoch_of_shard()
  local scores = redis.call('ZMSCORE', STATE, 'e', 'r')
  local epoch, run = tonumber(scores[1]), tonumber(scores[2])
  if epoch and run and run == tonumber(ARGV[1]) then
    return epoch, run
  end
  local id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local this = tonumber(string.sub(id, 1, 13), 16)
  if not epoch or run ~= this then
    epoch = tonumber(ARGV[2])
    redis.call('ZADD', STATE, epoch, 'e', this, 'r')
  end
  return epoch, this
end

-- The next tick of the shard's logical clock, stored, and Redis' time; microseconds. Never goes back, whatever TIME does.
local function tick()
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local clock = math.max((tonumber(redis.call('ZSCORE', STATE, 'c')) or 0) + 1, now)
  redis.call('ZADD', STATE, clock, 'c')
  redis.call('PEXPIRE', STATE, ARGV[3])
  return clock, now
end

-- Whether an entry of this epoch is there.
local function present(epoch)
  local at = redis.call('GETRANGE', ENTRY, EPOCH_AT, EPOCH_AT + 7)
  return #at == 8 and struct.unpack('>d', at) == epoch
end

local function store(epoch, built, now, ttl, lead, tail)
  local head = struct.pack('>dddd', epoch, built, 0, now + tonumber(ttl) * 1000)
  redis.call('SET', ENTRY, lead .. head .. tail, 'PX', ttl)
end

-- A double as text without loss.
local function exact(number)
  return string.format('%.0f', number)
end

-- Ends the lease, and tells those who wait for that.
local function end_lease()
  local lease = redis.call('GET', LEASE)
  if lease then
    redis.call('DEL', LEASE)
    if #lease > 32 then
      redis.call('PUBLISH', ARGV[4], LEASE)
    end
  end
end
