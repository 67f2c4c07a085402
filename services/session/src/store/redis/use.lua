-- Presents a token: the part of get that writes. ARGV: id, presented hashes, grace ms, '1' to record the use.
allow_growth()
local session, standing = present(ARGV[2], ARGV[3], tonumber(ARGV[4]))
if not session then return {standing} end
local record
if ARGV[5] == '1' then
  record = save(ARGV[2], session, touch(session))
else
  record = call('GET', base .. 's:' .. ARGV[2])
end
return {'ok', record, now}
