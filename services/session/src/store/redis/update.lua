-- ARGV: id, presented hashes, grace ms, expected version or '', then the change.
local id = ARGV[2]
local session, standing = present(id, ARGV[3], tonumber(ARGV[4]))
if not session then return {standing} end
if ARGV[5] ~= '' and ARGV[5] ~= session.v then return {'version', session.v} end
local changed, passed = change(session, 6)
if passed then return {passed} end
return {'ok', save(id, changed, touch(changed)), now}
