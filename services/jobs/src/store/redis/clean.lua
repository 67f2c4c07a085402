-- Ids of cancelled jobs are to be no more than those of ready ones and this many: then a queue that nobody leases from takes no
-- more room than twice what is in it, and a lease passes over few.
local DEAD_MAX = 100

-- Takes ids of cancelled jobs out of the lists, of at most so many ids that it looks at. It moves ids from one list to the other
-- at the place where the two meet, so that their order stays, and leaves out the dead: from the head of READY to the end of
-- FIRST until READY is empty, then back; `w` of the hash `k` says which way. Answers how many it took out.
local function clean(looks)
  local down, ids = call('HGET', P .. 'k', 'w') == 'd'
  for _ = 1, 2 do
    ids = call(down and 'RPOP' or 'LPOP', down and FIRST or READY, looks)
    if ids then break end
    down = not down
    call('HSET', P .. 'k', 'w', down and 'd' or 'u')
  end
  local alive = {}
  for _, id in ipairs(ids or {}) do
    if (call('HGET', P .. 's:' .. id, 'st') or '2') == '2' and call('EXISTS', P .. 'j:' .. id) == 1 then
      alive[#alive + 1] = id
    end
  end
  chunked(down and 'LPUSH' or 'RPUSH', down and READY or FIRST, alive)
  return ids and #ids - #alive or 0
end

-- How many ids the lists hold, and how many of these are dead.
local function in_lists()
  local all = call('LLEN', READY) + call('LLEN', FIRST)
  return all, all - (tonumber(call('HGET', P .. 'k', '2')) or 0)
end
