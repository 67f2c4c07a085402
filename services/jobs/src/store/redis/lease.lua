-- ARGV: 3 ticket, 4 jobs at most, 5 lease in ms, 6 worker, 7 bytes at most, 8 the ticket's TTL in ms.
-- Answers {fence, expire, more, {id, header, fields}...}; the fence is 0 if there was nothing.
allow_growth()
local ticket = P .. 'n:' .. ARGV[3]
local max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[7])
if call('EXISTS', ticket) == 1 then return { 0, 0, 0 } end
promote(200)

local jobs, ids, run, bytes, looked, full = {}, {}, {}, 0, 0, false
local fence, held_by
local key = FIRST
while #ids < max and looked < max + 200 and not full do
  local popped = call('LPOP', key, math.min(CHUNK, max - #ids))
  if popped then
    for index, id in ipairs(popped) do
      looked = looked + 1
      local header = call('GET', P .. 'j:' .. id)
      local fields = fields_of(id)
      -- A job that is gone or not ready any more (it was cancelled) is passed over.
      if header and (fields.st or '2') == '2' then
        if #ids > 0 and bytes + #header > bytes_max then
          full = true
          local back = {}
          for rest = #popped, index, -1 do back[#back + 1] = popped[rest] end
          chunked('LPUSH', key, back)
          break
        end
        bytes = bytes + #header
        if not fence then
          fence = math.max(tonumber(call('GET', P .. 'f') or '0') + 1, time[1] * 1000000 + time[2])
          fence = string.format('%.0f', fence)
          held_by = fence .. ' ' .. ARGV[6]
        end
        local version = (fields.v or 1) + 1
        set(id, fields, { 'st', 3, 'v', version, 'a', (fields.a or 0) + 1, 'sm', string.format('%d', now) })
        note(id, version)
        ids[#ids + 1] = id
        run[#run + 1] = id
        run[#run + 1] = held_by
        jobs[#jobs + 1] = { id, header, packed(fields) }
      end
    end
  elseif key == FIRST then
    key = READY
  else
    break
  end
end
local more = (call('EXISTS', READY) == 1 or key == FIRST and call('EXISTS', FIRST) == 1) and 1 or 0
if #ids == 0 then
  tell()
  return { 0, 0, more }
end

chunked('HSET', P .. 'run', run)
local expire = now + ARGV[5]
call('SET', P .. 'f', fence)
call('SET', P .. 'c:' .. fence, table.concat(ids))
call('HSET', P .. 'left', fence, #ids)
call('ZADD', P .. 'leases', expire, fence)
call('SET', ticket, fence, 'PX', ARGV[8])
count('2', -#ids)
tell()
return { fence, string.format('%.0f', expire), more, unpack(jobs) }
