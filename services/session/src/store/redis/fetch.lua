-- Reads a session; nil if there is none.
local function fetch(id)
  local packed = call('GET', base .. 's:' .. id)
  return packed and cmsgpack.unpack(packed)
end

-- Writes back a session that this script has fetched, never one that is gone meanwhile. Its end is unchanged, or the one given.
-- Answers the record as get reads it.
local function save(id, session, ends)
  local packed = cmsgpack.pack(session)
  if ends then
    call('SET', base .. 's:' .. id, packed, 'XX', 'PXAT', ends)
  else
    call('SET', base .. 's:' .. id, packed, 'XX', 'KEEPTTL')
  end
  return packed
end

-- Records a use of what was fetched, for the caller to save with the end that it answers, as text: never beyond the absolute end,
-- and never shorter.
local function touch(session)
  session.e = string.format('%d', math.min(math.max(now + session.i, session.e + 0), session.x + 0))
  return session.e
end
