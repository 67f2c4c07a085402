-- Removes the index entries of a user's sessions that have expired and, with 'revoke_oldest', as many of the oldest sessions as are
-- too many for one more. Answers whether there is room for one more.
local function make_room(index, user, most, policy)
  local living = {}
  for _, other in ipairs(call('ZRANGE', index, 0, -1)) do
    if call('EXISTS', base .. 's:' .. other) == 1 then
      living[#living + 1] = other
    else
      finish('expired', other, user)
    end
  end
  if #living >= most and policy == 'reject' then return false end
  for at = 1, #living + 1 - most do finish('revoked', living[at], user) end
  return true
end
