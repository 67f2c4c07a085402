-- The ids of a claim that it still holds, in order.
local function held(fence)
  local all = call('GET', P .. 'c:' .. fence) or ''
  local ids = {}
  for from = 1, #all, TAIL do
    local id = string.sub(all, from, from + TAIL - 1)
    if holder(id) == fence then ids[#ids + 1] = id end
  end
  return ids
end
