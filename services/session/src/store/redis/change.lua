-- The session with other attributes, for the caller to save; or nothing and the limit that would be passed. From
-- ARGV[from]: most attributes, most bytes, how many are set, each name and value, how many are removed, each name.
local function change(session, from)
  local count_max, bytes_max, sets = tonumber(ARGV[from]), tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2])
  local removes_at = from + 3 + 2 * sets
  local removes = tonumber(ARGV[removes_at])
  if sets + removes == 0 then return session end
  local changed = {}
  for field, value in pairs(session) do changed[field] = value end
  for at = removes_at + 1, removes_at + removes do changed['a:' .. ARGV[at]] = nil end
  for at = from + 3, removes_at - 1, 2 do changed['a:' .. ARGV[at]] = ARGV[at + 1] end
  local count, bytes = 0, 0
  for field, value in pairs(changed) do
    if string.sub(field, 1, 2) == 'a:' then count, bytes = count + 1, bytes + #field - 2 + #value end
  end
  if count > count_max then return nil, 'count' end
  if bytes > bytes_max then return nil, 'bytes' end
  changed.v = string.format('%d', changed.v + 1)
  return changed
end
