-- What reads a session or ends it goes on when the memory is full: a script that has written may grow. Nothing has this key.
local function allow_growth()
  call('DEL', base)
end
