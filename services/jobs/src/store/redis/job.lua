-- A job as Rust reads it.
local function job(id)
  return { call('GET', P .. 'j:' .. id), call('HGETALL', P .. 's:' .. id) }
end
