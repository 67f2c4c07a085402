-- ARGV: delta, the value of an absent entry, ttl of an absent entry in ms, and kept. Answers {process, outcome, value}: 1 done, 0 the
-- entry holds no integer, 2 the sum is no 64-bit integer.
local SCRATCH = KEYS[1] .. 'n:' .. NAME
local epoch, run = epoch_of_shard()
local raw = call('GET', ENTRY)
local state, head
if raw then state, head = judged(epoch, raw) end
local fresh = state == 'fresh' and bit.band(head.flags, NEGATIVE) == 0
local value = ARGV[8]
if fresh then
  value = string.sub(raw, head.payload)
  if bit.band(head.flags, ZSTD) ~= 0 or not string.match(value, '^-?%d+$') or #value > 20 then
    return { exact(run), 0, '' }
  end
end
-- Redis adds 64-bit integers exactly; numbers here are doubles.
call('SET', SCRATCH, value)
local sum = redis.pcall('INCRBY', SCRATCH, ARGV[7])
value = call('GETDEL', SCRATCH)
if type(sum) == 'table' then
  return { exact(run), string.find(sum.err, 'overflow') and 2 or 0, '' }
end
local clock, now = tick()
tell(call('GETDEL', LEASE))
if fresh then
  call('SET', ENTRY, string.sub(raw, 1, 8) .. struct.pack('>I7', clock) .. string.sub(raw, 16, head.payload - 1) .. value, 'KEEPTTL')
else
  store(epoch, clock, now, ARGV[9], ARGV[9], string.char(0x20), value)
end
return { exact(run), 1, value }
