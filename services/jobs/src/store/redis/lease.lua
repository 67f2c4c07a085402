-- ARGV: 3 ticket, 4 jobs at most, 5 lease in ms, 6 worker, 7 bytes at most, 8 the ticket's TTL in ms.
-- Answers {fence, expire, more, {id, header, state}...}; the fence is 0 if there was nothing.
allow_growth()
local ticket = P .. 'n:' .. ARGV[3]
local max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[7])
if redis.call('EXISTS', ticket) == 1 then return { 0, 0, 0 } end
promote(200)

local jobs, ids, bytes, looked, full = {}, {}, 0, 0, false
local fence
while #ids < max and looked < max + 200 and not full do
  local popped = redis.call('LPOP', READY, math.min(CHUNK, max - #ids))
  if not popped then break end
  for index, id in ipairs(popped) do
    looked = looked + 1
    local header = redis.call('GET', P .. 'j:' .. id)
    local s = P .. 's:' .. id
    local now_is = redis.call('HMGET', s, 'st', 'v', 'a')
    -- A job that is gone or not ready any more (it was cancelled) is passed over.
    if header and (now_is[1] or '2') == '2' then
      if #ids > 0 and bytes + #header > bytes_max then
        full = true
        local back = {}
        for rest = #popped, index, -1 do back[#back + 1] = popped[rest] end
        chunked('LPUSH', READY, back)
        break
      end
      bytes = bytes + #header
      if not fence then
        fence = math.max(tonumber(redis.call('GET', P .. 'f') or '0') + 1, time[1] * 1000000 + time[2])
        fence = string.format('%.0f', fence)
      end
      local version = (tonumber(now_is[2]) or 1) + 1
      redis.call('HSET', s, 'st', 3, 'v', version, 'a', (tonumber(now_is[3]) or 0) + 1, 'sm', now)
      note(id, version)
      ids[#ids + 1] = id
      jobs[#jobs + 1] = { id, header, redis.call('HGETALL', s) }
    end
  end
end
local more = redis.call('LLEN', READY) > 0 and 1 or 0
if #ids == 0 then
  tell()
  return { 0, 0, more }
end

local run, held_by = {}, fence .. ' ' .. ARGV[6]
for _, id in ipairs(ids) do
  run[#run + 1] = id
  run[#run + 1] = held_by
end
chunked('HSET', P .. 'run', run)
local expire = now + tonumber(ARGV[5])
redis.call('SET', P .. 'f', fence)
redis.call('SET', P .. 'c:' .. fence, table.concat(ids))
redis.call('HSET', P .. 'left', fence, #ids)
redis.call('ZADD', P .. 'leases', expire, fence)
redis.call('SET', ticket, fence, 'PX', ARGV[8])
count('2', -#ids)
tell()
return { fence, string.format('%.0f', expire), more, unpack(jobs) }
