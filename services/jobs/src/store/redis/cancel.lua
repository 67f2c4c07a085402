-- ARGV: 3 id. Answers {'ok', job}, {'final', job} if it ended otherwise, or {'none'}.
allow_growth()
local id = ARGV[3]
local header = call('GET', P .. 'j:' .. id)
if not header then return { 'none' } end
local fields = fields_of(id)
local state = fields.st or '2'
if state == '7' then return { 'ok', { header, packed(fields) } } end
if state == '4' or state == '6' then return { 'final', { header, packed(fields) } } end
if state == '3' then
  local fence = holder(id)
  if fence then let_go(id, fence) end
elseif state == '2' then
  count('2', -1)
else
  count(state, -1)
  call('ZREM', P .. 'd', id)
end
local _, _, retention = limits(header)
local version = (fields.v or 1) + 1
set(id, fields, { 'st', 7, 'fm', string.format('%d', now), 'v', version })
forget(id, 7, retention)
note(id, version)
tell()
if state == '2' then
  -- A short list is searched. In a long one the id stays and is passed over, and cancelled jobs pay for the cleaning.
  local all, dead = in_lists()
  if all <= 1000 and call('LREM', READY, 1, id) + call('LREM', FIRST, 1, id) > 0 then dead = dead - 1 end
  if dead > all - dead + DEAD_MAX then clean(CHUNK) end
end
return { 'ok', { header, packed(fields) } }
