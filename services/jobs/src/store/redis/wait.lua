-- Lets a job wait for a moment, scheduled or retrying; tells the clones if nothing was due earlier.
local function wait_until(id, state, moment)
  count(state, 1)
  local first = call('ZRANGE', P .. 'd', 0, 0, 'WITHSCORES')[2]
  call('ZADD', P .. 'd', moment, id)
  if not first or moment < tonumber(first) then
    call('PUBLISH', ARGV[1], 'd' .. math.max(0, moment - now) .. ' ' .. ARGV[2])
  end
end
