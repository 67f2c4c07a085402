-- Answers jobs by state from 1 to 7, when the one at the head of the queue was enqueued or '', and the time.
local kept = redis.call('HMGET', P .. 'k', '1', '2', '5')
local function over(state) return redis.call('ZCOUNT', P .. 'z:' .. state, '(' .. now, '+inf') end
local head = ''
for _ = 1, 200 do
  local id = redis.call('LINDEX', READY, 0)
  if not id then break end
  if (redis.call('HGET', P .. 's:' .. id, 'st') or '2') == '2' then
    head = redis.call('GETRANGE', P .. 'j:' .. id, 1, 8)
    if head ~= '' then break end
  end
  -- It was cancelled.
  redis.call('LPOP', READY)
end
return {
  tonumber(kept[1]) or 0,
  tonumber(kept[2]) or 0,
  redis.call('HLEN', P .. 'run'),
  over(4),
  tonumber(kept[3]) or 0,
  over(6),
  over(7),
  head,
  string.format('%.0f', now),
}
