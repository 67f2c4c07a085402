-- Appends an event to the bucket's stream.
local function emit(kind, id, user)
  call('XADD', base .. 'v', 'MAXLEN', '~', ARGV[1], '*', 'k', kind, 's', id, 'u', user)
end
