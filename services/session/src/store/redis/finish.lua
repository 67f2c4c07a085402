-- Removes a session with its index entries, and emits the event that says why.
local function finish(kind, id, user)
  call('DEL', base .. 's:' .. id)
  call('ZREM', base .. 'u:' .. user, id)
  call('ZREM', base .. 'e', id .. user)
  emit(kind, id, user)
end
