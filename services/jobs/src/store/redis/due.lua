-- Makes ready what is due, at most so many; how many.
local function promote(max)
  local due = call('ZRANGEBYSCORE', P .. 'd', '-inf', now, 'LIMIT', 0, max)
  if #due == 0 then return 0 end
  local ready = {}
  for _, id in ipairs(due) do
    local s = P .. 's:' .. id
    local state = call('HGET', s, 'st')
    if state == '1' or state == '5' then
      call('HSET', s, 'st', 2)
      note(id, call('HINCRBY', s, 'v', 1))
      count(state, -1)
      ready[#ready + 1] = id
    end
  end
  chunked('ZREM', P .. 'd', due)
  push('RPUSH', ready)
  return #due
end
