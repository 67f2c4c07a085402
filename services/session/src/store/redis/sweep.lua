-- ARGV: most to look at. Takes what ran out from the indexes; moves what was used meanwhile. Answers how many ended and
-- how many were looked at.
local due = call('ZRANGEBYSCORE', base .. 'e', '-inf', now, 'LIMIT', 0, ARGV[2])
local ended = 0
if #due > 0 then allow_growth() end
for _, member in ipairs(due) do
  local id, user = string.sub(member, 1, ID), string.sub(member, ID + 1)
  local key = base .. 's:' .. id
  local ends = call('PEXPIRETIME', key)
  if ends == -1 then
    -- Somebody took its expiry away: it ends at the latest when it must.
    ends = tonumber(fetch(id).x)
    call('PEXPIREAT', key, ends)
    if ends <= now then ends = -2 end
  end
  if ends == -2 then
    finish('expired', id, user)
    ended = ended + 1
  else
    call('ZADD', base .. 'e', ends, member)
  end
end
return {ended, #due}
