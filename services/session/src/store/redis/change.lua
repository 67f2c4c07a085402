-- Changes attributes, all or nothing. From ARGV[from]: most attributes, most bytes, how many are set, each name and
-- value, how many are removed, each name. Answers the limit that would be passed, or nothing.
local function change(id, from)
  local key = sessions .. id
  local count_max, bytes_max, sets = tonumber(ARGV[from]), tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2])
  local removes_at = from + 3 + 2 * sets
  local removes = tonumber(ARGV[removes_at])
  if sets + removes == 0 then return nil end
  local size, has = {}, redis.call('HGETALL', key)
  for at = 1, #has, 2 do
    if string.sub(has[at], 1, 2) == 'a:' then size[has[at]] = #has[at] - 2 + #has[at + 1] end
  end
  for at = removes_at + 1, removes_at + removes do size['a:' .. ARGV[at]] = nil end
  for at = from + 3, removes_at - 1, 2 do size['a:' .. ARGV[at]] = #ARGV[at] + #ARGV[at + 1] end
  local count, bytes = 0, 0
  for _, length in pairs(size) do count, bytes = count + 1, bytes + length end
  if count > count_max then return 'count' end
  if bytes > bytes_max then return 'bytes' end
  for at = removes_at + 1, removes_at + removes do redis.call('HDEL', key, 'a:' .. ARGV[at]) end
  for at = from + 3, removes_at - 1, 2 do redis.call('HSET', key, 'a:' .. ARGV[at], ARGV[at + 1]) end
  redis.call('HINCRBY', key, 'v', 1)
  return nil
end
