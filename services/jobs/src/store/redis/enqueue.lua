-- ARGV: 3 id, 4 header, 5 request_id or '', 6 its TTL, 7 'n', 'a' or 't', 8 delay or moment in ms.
-- Answers {'known', id, job...} or {'new', id, header, moment or ''}.
local id, request = ARGV[3], ARGV[5]
if request ~= '' then
  local known = redis.call('GET', P .. 'i:' .. request)
  if known then return { 'known', known, job(known) } end
end
promote(200)
local moment
if ARGV[7] == 'a' then moment = now + tonumber(ARGV[8]) end
if ARGV[7] == 't' and tonumber(ARGV[8]) > now then moment = tonumber(ARGV[8]) end
local header = string.sub(ARGV[4], 1, 1) .. struct.pack('>I8', now) .. string.sub(ARGV[4], 10)
redis.call('SET', P .. 'j:' .. id, header)
if request ~= '' then redis.call('SET', P .. 'i:' .. request, id, 'PX', ARGV[6]) end
if moment then
  -- A job without this hash is as it was enqueued, and ready.
  redis.call('HSET', P .. 's:' .. id, 'st', 1, 'v', 1, 'rt', string.format('%.0f', moment))
  wait_until(id, moment)
else
  push('RPUSH', { id })
end
tell()
return { 'new', id, struct.pack('>I8', now), moment and string.format('%.0f', moment) or '' }
