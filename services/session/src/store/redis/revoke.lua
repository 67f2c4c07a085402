-- ARGV: id, presented hashes or '' when the id was given, grace ms.
allow_growth()
local session, standing
if ARGV[3] == '' then
  session = fetch(ARGV[2])
else
  session, standing = present(ARGV[2], ARGV[3], tonumber(ARGV[4]))
end
if session then finish('revoked', ARGV[2], session.u) end
return standing or 'id'
