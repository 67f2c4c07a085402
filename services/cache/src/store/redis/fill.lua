-- ARGV: token, ttl in ms, lead and tail of the entry. Answers {process, stored}. The entry is as old as its lease: what
-- was loaded is known to be new only as of then.
local epoch, run = epoch_of_shard()
local lease = call('GET', LEASE)
if not lease or string.sub(lease, 1, 16) ~= ARGV[6] or struct.unpack('>d', lease, 17) ~= epoch then
  return { exact(run), 0 }
end
local _, now = tick()
call('DEL', LEASE)
tell(lease)
store(epoch, struct.unpack('>d', lease, 25), now, ARGV[7], ARGV[8], ARGV[9])
return { exact(run), 1 }
