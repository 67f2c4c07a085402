-- ARGV: id, user, idle ms, absolute ms, most sessions of a user, 'reject' or 'revoke_oldest', the record's bytes before and
-- after its times, and with a request_id its key, fingerprint and the ms to keep it. Answers {'new', now}, or what the request_id
-- made before as {'repeat', record, now, id}, or one word. 'crowded' asks for the same script with `make_room.lua` in front: most
-- users never reach their limit, so the common script does without it.
local id, user, most, request = ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[10]

if request then
  request = base .. 'r:' .. request
  local made = call('GET', request)
  if made then
    if string.sub(made, ID + 1) ~= ARGV[11] then return {'differs'} end
    local other = string.sub(made, 1, ID)
    return {'repeat', call('GET', base .. 's:' .. other), now, other}
  end
end

local index = base .. 'u:' .. user
if call('ZCARD', index) >= most then
  if not make_room then return {'crowded'} end
  if not make_room(index, user, most, ARGV[7]) then return {'full'} end
end

-- Times are written as text once: Redis prints each number of an argument with all its digits, which costs more.
local digits = string.format
local absolute = now + ARGV[5]
local created, ends = digits('%d', now), digits('%d', math.min(now + ARGV[4], absolute))
absolute = digits('%d', absolute)
-- As cmsgpack writes them: a name of one byte, a number in at most 31 digits.
local function packed(name, number)
  return '\161' .. name .. string.char(160 + #number) .. number
end
local record = ARGV[8] .. packed('c', created) .. packed('x', absolute) .. packed('e', ends) .. ARGV[9]
call('SET', base .. 's:' .. id, record, 'PXAT', ends)
call('ZADD', index, created, id)
call('ZADD', base .. 'e', ends, id .. user)
if request then call('SET', request, id .. ARGV[11], 'PX', ARGV[12]) end
emit('created', id, user)
return {'new', now}
