-- ARGV: user, id that stays or ''.
local user, revoked = ARGV[2], 0
for _, id in ipairs(redis.call('ZRANGE', users .. user, 0, -1)) do
  if redis.call('EXISTS', sessions .. id) == 0 then
    finish('expired', id, user)
  elseif id ~= ARGV[3] then
    finish('revoked', id, user)
    revoked = revoked + 1
  end
end
return revoked
