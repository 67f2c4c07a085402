-- ARGV: id, presented hashes, grace ms, hashes that the successor may have with the one for a new rotation first, then
-- the change.
local id = ARGV[2]
-- A rotation by itself: it makes a change of rights safe, and a record hardly larger.
if ARGV[8] == '0' then allow_growth() end
local session, standing = present(id, ARGV[3], tonumber(ARGV[4]))
if not session then return {standing} end
local changed, passed = change(session, 6)
if passed then return {passed} end
local ends = touch(changed)
if standing == 'current' and not (changed.n and among(ARGV[5], changed.n)) then
  changed.n = string.sub(ARGV[5], 1, HASH)
  emit('rotated', id, changed.u)
end
return {'ok', save(id, changed, ends), now}
