-- Presents a token; the rules are those of session/rotation.rs. `presented` is a string of hashes, the one for new records
-- first. Answers the session and 'current' or 'grace', or nil and 'absent' or 'reused'. A successor takes over, the
-- session of a stolen token ends.
local RETIRED, RETIRED_MAX = HASH + 13, 8
local function among(presented, hash)
  for at = 1, #presented, HASH do
    if string.sub(presented, at, at + HASH - 1) == hash then return at end
  end
end

local function present(id, presented, grace)
  local session = fetch(id)
  if not session then return nil, 'absent' end
  local first, retired = string.sub(presented, 1, HASH), session.o or ''
  local at = among(presented, session.h)
  if at then
    if at > 1 then
      session.h = first
      save(id, session)
    end
    return session, 'current'
  end
  if session.n and among(presented, session.n) then
    local entry = session.h .. string.format('%013d', now + grace)
    session.h, session.n, session.o = first, nil, string.sub(entry .. retired, 1, RETIRED * RETIRED_MAX)
    save(id, session)
    return session, 'current'
  end
  for from = 1, #retired, RETIRED do
    if among(presented, string.sub(retired, from, from + HASH - 1)) then
      if now < tonumber(string.sub(retired, from + HASH, from + RETIRED - 1)) then return session, 'grace' end
      finish('reuse_detected', id, session.u)
      return nil, 'reused'
    end
  end
  return nil, 'absent'
end
