-- ARGV: ttl and kept in ms, lead and tail of the entry, '1' to keep an entry that is there. Answers {process, stored}.
local epoch, run = epoch_of_shard()
if ARGV[11] == '1' then
  local state, head = judged(epoch, call('GETRANGE', ENTRY, 0, BEFORE_PAYLOAD))
  if state == 'fresh' and bit.band(head.flags, NEGATIVE) == 0 then
    return { exact(run), 0 }
  end
end
local clock, now = tick()
tell(call('GETDEL', LEASE))
store(epoch, clock, now, ARGV[7], ARGV[8], ARGV[9], ARGV[10])
return { exact(run), 1 }
