-- ARGV: ttl in ms, lead and tail of the entry, '1' to keep an entry that is there. Answers {process, stored}.
local epoch, run = epoch_of_shard()
if ARGV[9] == '1' and present(epoch) then
  local negative = string.byte(call('GETRANGE', ENTRY, FLAGS_AT, FLAGS_AT)) >= 2
  if not negative then
    return { exact(run), 0 }
  end
end
local clock, now = tick()
tell(call('GETDEL', LEASE))
store(epoch, clock, now, ARGV[6], ARGV[7], ARGV[8])
return { exact(run), 1 }
