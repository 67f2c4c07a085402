-- ARGV: ttl in ms. Answers {process, done}. The entry must be fresh.
local EXPIRY_AT = 15
local epoch, run = epoch_of_shard()
local state, head = judged(epoch, call('GETRANGE', ENTRY, 0, BEFORE_PAYLOAD))
if state ~= 'fresh' or bit.band(head.flags, NEGATIVE) ~= 0 then
  return { exact(run), 0 }
end
local ttl = tonumber(ARGV[7])
call('SETRANGE', ENTRY, EXPIRY_AT, struct.pack('>I6', math.floor(micros() / 1000) + ttl))
call('PEXPIRE', ENTRY, ttl + head.stale)
return { exact(run), 1 }
