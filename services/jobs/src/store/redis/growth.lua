-- Work goes on when the memory is full, or it would never get less: after its first write a script may grow. Nothing has this key.
local function allow_growth()
  call('DEL', P)
end
