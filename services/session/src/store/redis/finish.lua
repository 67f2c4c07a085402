-- Takes a session away with its index entries, and says why.
local function finish(kind, id, user)
  call('DEL', base .. 's:' .. id)
  call('ZREM', base .. 'u:' .. user, id)
  call('ZREM', base .. 'e', id .. user)
  emit(kind, id, user)
end
