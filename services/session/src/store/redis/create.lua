-- ARGV: id, user, idle ms, absolute ms, most sessions of a user, 'reject' or 'revoke_oldest', the record's bytes before and
-- after its times, and with a request_id its key, fingerprint and the ms to keep it. Answers {'new', id, {record, time}}.
local id, user, most = ARGV[2], ARGV[3], tonumber(ARGV[6])
local request = ARGV[10] and base .. 'r:' .. ARGV[10]

if request then
  local made = call('GET', request)
  if made then
    if string.sub(made, ID + 1) ~= ARGV[11] then return {'differs'} end
    local other = string.sub(made, 1, ID)
    return {'repeat', other, {call('GET', base .. 's:' .. other), now}}
  end
end

local index = base .. 'u:' .. user
if call('ZCARD', index) >= most then
  local living = {}
  for _, other in ipairs(call('ZRANGE', index, 0, -1)) do
    if call('EXISTS', base .. 's:' .. other) == 1 then
      living[#living + 1] = other
    else
      finish('expired', other, user)
    end
  end
  if #living >= most and ARGV[7] == 'reject' then return {'full'} end
  for at = 1, #living + 1 - most do finish('revoked', living[at], user) end
end

local absolute = now + ARGV[5]
local ends = math.min(now + ARGV[4], absolute)
-- As cmsgpack writes them: a name of one byte, a number in digits.
local function packed(name, number)
  local digits = string.format('%d', number)
  return '\161' .. name .. string.char(160 + #digits) .. digits
end
local record = ARGV[8] .. packed('c', now) .. packed('x', absolute) .. packed('e', ends) .. ARGV[9]
call('SET', base .. 's:' .. id, record, 'PXAT', ends)
call('ZADD', index, now, id)
call('ZADD', base .. 'e', ends, id .. user)
if request then call('SET', request, id .. ARGV[11], 'PX', ARGV[12]) end
emit('created', id, user)
return {'new', id, {record, now}}
