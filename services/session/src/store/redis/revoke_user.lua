-- ARGV: user, id that stays or ''.
local user, revoked = ARGV[2], 0
for _, id in ipairs(call('ZRANGE', base .. 'u:' .. user, 0, -1)) do
  if call('EXISTS', base .. 's:' .. id) == 0 then
    finish('expired', id, user)
  elseif id ~= ARGV[3] then
    finish('revoked', id, user)
    revoked = revoked + 1
  end
end
return revoked
