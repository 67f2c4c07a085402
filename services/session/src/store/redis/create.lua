-- ARGV: id, user, hash, idle ms, absolute ms, metadata, request key or '', fingerprint, ms to keep it, most sessions of a
-- user, 'reject' or 'revoke_oldest', then a name and a value for each attribute.
local id, user, hash, idle, absolute, metadata = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local request, fingerprint, kept, most, policy = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12]

if request ~= '' then
  local made = redis.call('GET', base .. 'r:' .. request)
  if made then
    if string.sub(made, ID + 1) ~= fingerprint then return {'differs'} end
    local other = string.sub(made, 1, ID)
    return {'repeat', other, record(other)}
  end
end

local index = users .. user
if redis.call('ZCARD', index) >= most then
  local living = {}
  for _, other in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if redis.call('EXISTS', sessions .. other) == 1 then
      living[#living + 1] = other
    else
      finish('expired', other, user)
    end
  end
  if #living >= most and policy == 'reject' then return {'full'} end
  for at = 1, #living + 1 - most do finish('revoked', living[at], user) end
end

local key, ends = sessions .. id, now + math.min(idle, absolute)
local session = {
  u = user, c = string.format('%d', now), i = ARGV[5], x = string.format('%d', now + absolute), e = string.format('%d', ends),
  v = '1', h = hash,
}
if metadata ~= '' then session.m = metadata end
for at = 13, #ARGV, 2 do session['a:' .. ARGV[at]] = ARGV[at + 1] end
redis.call('SET', key, cmsgpack.pack(session), 'PXAT', ends)
redis.call('ZADD', index, now, id)
redis.call('ZADD', expiries, ends, id .. user)
if request ~= '' then redis.call('SET', base .. 'r:' .. request, id .. fingerprint, 'PX', kept) end
emit('created', id, user)
return {'new', id, record(id)}
