-- ARGV: 3 id, 4 fence, 5 result. Answers {'ok', job}, {'lost'} or {'none'}.
local id, fence = ARGV[3], ARGV[4]
local header = call('GET', P .. 'j:' .. id)
if not header then return { 'none' } end
local fields = fields_of(id)
if holder(id) ~= fence then
  if fields.ff == fence and fields.fo == '1' then return { 'ok', { header, packed(fields) } } end
  return { 'lost' }
end
let_go(id, fence)
local _, _, retention = limits(header)
local version = fields.v + 1
set(id, fields, {
  'st', 4, 'fm', string.format('%d', now), 'ff', fence, 'fo', 1, 'r', ARGV[5], 'v', version,
})
forget(id, 4, retention)
note(id, version)
tell()
return { 'ok', { header, packed(fields) } }
