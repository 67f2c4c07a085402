-- ARGV: 3 id, 4 fence, 5 message, 6 '1' if permanent, 7 seed, 8 longest backoff in ms. Answers as complete does.
local id, fence = ARGV[3], ARGV[4]
local header = call('GET', P .. 'j:' .. id)
if not header then return { 'none' } end
local fields = fields_of(id)
if holder(id) ~= fence then
  if fields.ff == fence and fields.fo == '2' then return { 'ok', { header, packed(fields) } } end
  return { 'lost' }
end
let_go(id, fence)
local attempts, backoff, retention = limits(header)
local attempt, errors, version = tonumber(fields.a), (fields.en or 0) + 1, fields.v + 1
local text = string.format('%d', now)
-- Errors are a ring of ten fields.
local written = {
  'ff', fence, 'fo', 2, 'v', version, 'en', errors, 'e' .. (errors - 1) % 10, attempt .. ' ' .. text .. ' ' .. ARGV[5],
}
local function also(name, value)
  written[#written + 1] = name
  written[#written + 1] = value
end
if ARGV[6] == '1' or attempt >= attempts then
  also('st', 6)
  also('fm', text)
  set(id, fields, written)
  forget(id, 6, retention)
else
  -- The steps of backoff::delay.
  local full = math.min(backoff * 2 ^ math.min(attempt - 1, 32), tonumber(ARGV[8]))
  local jitter = (tonumber(ARGV[7]) + attempt * 40503) % 65536
  local moment = now + full - math.floor(full * jitter / (5 * 65536))
  also('st', 5)
  also('rt', string.format('%.0f', moment))
  set(id, fields, written)
  wait_until(id, '5', moment)
end
note(id, version)
tell()
return { 'ok', { header, packed(fields) } }
