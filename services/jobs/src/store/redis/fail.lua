-- ARGV: 3 id, 4 fence, 5 message, 6 '1' if permanent, 7 seed, 8 longest backoff in ms. Answers as complete does.
allow_growth()
local id, fence = ARGV[3], ARGV[4]
local s = P .. 's:' .. id
local header = redis.call('GET', P .. 'j:' .. id)
if not header then return { 'none' } end
if holder(id) ~= fence then
  local closed = redis.call('HMGET', s, 'ff', 'fo')
  if closed[1] == fence and closed[2] == '2' then return { 'ok', job(id) } end
  return { 'lost' }
end
let_go(id, fence)
local attempts, backoff, retention = limits(header)
local attempt = tonumber(redis.call('HGET', s, 'a'))
add_error(s, attempt, ARGV[5])
if ARGV[6] == '1' or attempt >= attempts then
  finish(id, 6, retention)
else
  -- The steps of backoff::delay.
  local full = math.min(backoff * 2 ^ math.min(attempt - 1, 32), tonumber(ARGV[8]))
  local jitter = (tonumber(ARGV[7]) + attempt * 40503) % 65536
  local moment = now + full - math.floor(full * jitter / (5 * 65536))
  redis.call('HSET', s, 'st', 5, 'rt', string.format('%.0f', moment))
  wait_until(id, '5', moment)
end
redis.call('HSET', s, 'ff', fence, 'fo', 2)
note(id, redis.call('HINCRBY', s, 'v', 1))
tell()
return { 'ok', job(id) }
