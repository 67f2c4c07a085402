-- Changes attributes. Answers the session, for the caller to save; or nil and the limit that would be passed. From
-- ARGV[from]: most attributes, most bytes, how many are set, each name and value, how many are removed, each name.
local function change(session, from)
  local sets = tonumber(ARGV[from + 2])
  local removes_at = from + 3 + 2 * sets
  local removes = tonumber(ARGV[removes_at])
  if sets + removes == 0 then return session end
  for at = removes_at + 1, removes_at + removes do session['a:' .. ARGV[at]] = nil end
  for at = from + 3, removes_at - 1, 2 do session['a:' .. ARGV[at]] = ARGV[at + 1] end
  local count, bytes = 0, 0
  for field, value in pairs(session) do
    if string.byte(field, 2) == 58 then count, bytes = count + 1, bytes + #field - 2 + #value end
  end
  if count > tonumber(ARGV[from]) then return nil, 'count' end
  if bytes > tonumber(ARGV[from + 1]) then return nil, 'bytes' end
  session.v = string.format('%d', session.v + 1)
  return session
end
