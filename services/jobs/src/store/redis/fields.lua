-- The fields of a job by their names.
local function fields_of(id)
  local flat, fields = call('HGETALL', P .. 's:' .. id), {}
  for at = 1, #flat, 2 do fields[flat[at]] = flat[at + 1] end
  return fields
end

-- Writes some, to what was read as well.
local function set(id, fields, written)
  call('HSET', P .. 's:' .. id, unpack(written))
  for at = 1, #written, 2 do fields[written[at]] = tostring(written[at + 1]) end
end

-- Fields as they are answered: one string costs a third of what as many as there are fields do.
local packed = cmsgpack.pack
