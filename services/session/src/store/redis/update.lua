-- ARGV: id, presented hashes, grace ms, expected version or '', then the change.
local id = ARGV[2]
local user, standing = present(id, ARGV[3], tonumber(ARGV[4]))
if not user then return {standing} end
local version = redis.call('HGET', sessions .. id, 'v')
if ARGV[5] ~= '' and ARGV[5] ~= version then return {'version', version} end
local passed = change(id, 6)
if passed then return {passed} end
touch(id)
return {'ok', id, record(id)}
