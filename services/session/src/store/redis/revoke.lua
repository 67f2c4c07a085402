-- ARGV: id, presented hashes or '' when the id was given, grace ms.
local user
if ARGV[3] == '' then
  user = redis.call('HGET', sessions .. ARGV[2], 'u')
else
  user = present(ARGV[2], ARGV[3], tonumber(ARGV[4]))
end
if user then finish('revoked', ARGV[2], user) end
return {'ok'}
