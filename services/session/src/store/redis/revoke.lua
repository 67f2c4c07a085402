-- ARGV: id, presented hashes or '' when the id was given, grace ms.
local user, standing
if ARGV[3] == '' then
  user = redis.call('HGET', sessions .. ARGV[2], 'u')
else
  user, standing = present(ARGV[2], ARGV[3], tonumber(ARGV[4]))
end
if user then finish('revoked', ARGV[2], user) end
return standing or 'id'
