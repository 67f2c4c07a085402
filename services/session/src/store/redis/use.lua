-- The part of get that writes. ARGV: id, presented hashes, grace ms, '1' to record the use.
allow_growth()
local session, standing = present(ARGV[2], ARGV[3], tonumber(ARGV[4]))
if not session then return {standing} end
if ARGV[5] == '1' then
  save(ARGV[2], session, touch(session))
end
return {'ok', ARGV[2], record(ARGV[2])}
