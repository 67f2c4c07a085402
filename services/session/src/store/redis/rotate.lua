-- ARGV: id, presented hashes, grace ms, hashes that the successor may have with the one for a new rotation first, then
-- the change.
local id = ARGV[2]
local user, standing = present(id, ARGV[3], tonumber(ARGV[4]))
if not user then return {standing} end
local passed = change(id, 6)
if passed then return {passed} end
touch(id)
if standing == 'current' then
  local named = redis.call('HGET', sessions .. id, 'n')
  if not (named and among(ARGV[5], named)) then
    redis.call('HSET', sessions .. id, 'n', string.sub(ARGV[5], 1, HASH))
    emit('rotated', id, user)
  end
end
return {'ok', id, record(id)}
