-- A token is presented; the rules are those of rotation.rs. `presented` is a string of hashes, the one for new records
-- first. Answers the user and 'current' or 'grace', or false and 'absent' or 'reused'. A successor takes over, the
-- session of a stolen token ends.
local function among(presented, hash)
  for at = 1, #presented, HASH do
    if string.sub(presented, at, at + HASH - 1) == hash then return at end
  end
end

local function present(id, presented, grace)
  local key = sessions .. id
  local has = redis.call('HMGET', key, 'u', 'h', 'n', 'o')
  local user, current, successor, retired = has[1], has[2], has[3], has[4] or ''
  if not user then return false, 'absent' end
  local at = among(presented, current)
  if at then
    if at > 1 then redis.call('HSET', key, 'h', string.sub(presented, 1, HASH)) end
    return user, 'current'
  end
  if successor and among(presented, successor) then
    local entry = current .. string.format('%013d', now + grace)
    redis.call('HSET', key, 'h', string.sub(presented, 1, HASH),
      'o', string.sub(entry .. retired, 1, RETIRED * RETIRED_MAX))
    redis.call('HDEL', key, 'n')
    return user, 'current'
  end
  for from = 1, #retired, RETIRED do
    if among(presented, string.sub(retired, from, from + HASH - 1)) then
      if now < tonumber(string.sub(retired, from + HASH, from + RETIRED - 1)) then return user, 'grace' end
      finish('reuse_detected', id, user)
      return false, 'reused'
    end
  end
  return false, 'absent'
end
