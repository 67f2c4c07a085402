-- The part of a header that scripts need.
local function limits(header)
  return struct.unpack('>I2I4I4', header, 10)
end

-- A job whose state says that it has ended is readable for its retention. The header goes first: without it nobody reads the rest.
local function forget(id, state, retention)
  call('PEXPIRE', P .. 'j:' .. id, retention)
  call('PEXPIRE', P .. 's:' .. id, retention + 60000)
  call('ZADD', P .. 'z:' .. state, now + retention, id)
end
