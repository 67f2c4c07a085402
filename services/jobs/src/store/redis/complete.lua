-- ARGV: 3 id, 4 fence, 5 result. Answers {'ok', job}, {'lost'} or {'none'}.
allow_growth()
local id, fence = ARGV[3], ARGV[4]
local s = P .. 's:' .. id
local header = redis.call('GET', P .. 'j:' .. id)
if not header then return { 'none' } end
if holder(id) ~= fence then
  local closed = redis.call('HMGET', s, 'ff', 'fo')
  if closed[1] == fence and closed[2] == '1' then return { 'ok', job(id) } end
  return { 'lost' }
end
let_go(id, fence)
local _, _, retention = limits(header)
redis.call('HSET', s, 'ff', fence, 'fo', 1, 'r', ARGV[5])
finish(id, 4, retention)
note(id, redis.call('HINCRBY', s, 'v', 1))
tell()
return { 'ok', job(id) }
