-- ARGV: token, ttl and kept in ms, lead and tail of the entry, its tags. Answers {process, outcome}: 1 stored, 0 the lease has ended, 2
-- invalidated since. The entry is as old as its lease: what was loaded is known to be new only as of then.
local epoch, run = epoch_of_shard()
local lease = call('GET', LEASE)
if not lease or string.sub(lease, 1, 16) ~= ARGV[7] or struct.unpack('>d', lease, 17) ~= epoch then
  return { exact(run), 0 }
end
local built, outcome = struct.unpack('>d', lease, 25), 1
if built < floor then outcome = 2 end
for at = 12, #ARGV - 1 do
  if (tonumber(call('ZSCORE', STATE, '#' .. ARGV[at])) or 0) > built then outcome = 2 end
end
call('DEL', LEASE)
tell(lease)
if outcome == 1 then
  local _, now = tick()
  store(epoch, built, now, ARGV[8], ARGV[9], ARGV[10], ARGV[11])
end
return { exact(run), outcome }
