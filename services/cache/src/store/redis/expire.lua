-- KEYS and ARGV as in delete.lua. Entries that may be served after their expiry are kept for that, from now on; others are removed. Loads
-- under way are refused: they may have begun before what the caller knows of.
local call, WINDOW, EXPIRY_AT = redis.call, 4, 15
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 2, #ARGV do
  local ENTRY, LEASE = KEYS[1] .. 'e:' .. ARGV[at], KEYS[1] .. 'l:' .. ARGV[at]
  local lease = call('GETDEL', LEASE)
  local raw, stale = call('GETRANGE', ENTRY, 0, 28), 0
  local lead = string.byte(raw) or 0
  if #raw == 29 and lead >= 0x20 and lead <= 0x2f and bit.band(lead, WINDOW) ~= 0 then
    stale = struct.unpack('>I4', raw, 26)
  end
  if stale == 0 then
    call('UNLINK', ENTRY)
  elseif call('PTTL', ENTRY) > stale then
    call('SETRANGE', ENTRY, EXPIRY_AT, struct.pack('>I6', now))
    call('PEXPIRE', ENTRY, stale)
  end
  if lease and #lease > 32 then
    call('PUBLISH', ARGV[1], LEASE)
  end
end
return redis.status_reply('OK')
