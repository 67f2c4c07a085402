-- Answers jobs by state from 1 to 7, when the one at the head of the queue was enqueued or '', and the time.
local kept = call('HMGET', P .. 'k', '1', '2', '5')
local function over(state) return call('ZCOUNT', P .. 'z:' .. state, '(' .. now, '+inf') end
local head = ''
for _ = 1, 200 do
  local key = FIRST
  local id = call('LINDEX', FIRST, 0)
  if not id then
    key = READY
    id = call('LINDEX', READY, 0)
  end
  if not id then break end
  if (call('HGET', P .. 's:' .. id, 'st') or '2') == '2' then
    head = call('GETRANGE', P .. 'j:' .. id, 1, 8)
    if head ~= '' then break end
  end
  -- It was cancelled.
  call('LPOP', key)
end
return {
  tonumber(kept[1]) or 0,
  tonumber(kept[2]) or 0,
  call('HLEN', P .. 'run'),
  over(4),
  tonumber(kept[3]) or 0,
  over(6),
  over(7),
  head,
  string.format('%.0f', now),
}
