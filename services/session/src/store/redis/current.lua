-- `present` for the common case: the token is the session's current one, hashed with the first pepper. Nothing is written. Any
-- other token answers 'other', which asks for the same script with `present.lua` in its place.
local function present(id, presented)
  local session = fetch(id)
  if not session then return nil, 'absent' end
  if session.h ~= string.sub(presented, 1, HASH) then return nil, 'other' end
  return session, 'current'
end
