-- ARGV: 3 id. Answers {'ok', job}, {'final', job} if it ended otherwise, or {'none'}.
allow_growth()
local id = ARGV[3]
local s = P .. 's:' .. id
local header = redis.call('GETRANGE', P .. 'j:' .. id, 0, 18)
if header == '' then return { 'none' } end
local state = redis.call('HGET', s, 'st') or '2'
if state == '7' then return { 'ok', job(id) } end
if state == '4' or state == '6' then return { 'final', job(id) } end
if state == '3' then
  local fence = holder(id)
  if fence then let_go(id, fence) end
else
  -- A ready one stays in its list and is passed over there.
  count(state, -1)
  redis.call('ZREM', P .. 'd', id)
end
if redis.call('HEXISTS', s, 'v') == 0 then redis.call('HSET', s, 'v', 1) end
local _, _, retention = limits(header)
finish(id, 7, retention)
note(id, redis.call('HINCRBY', s, 'v', 1))
tell()
return { 'ok', job(id) }
