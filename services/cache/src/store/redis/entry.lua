-- Comes after `state.lua` and before the scripts of one entry. ARGV[6] is the channel of ended leases, the last one the name of the
-- entry. The layout of an entry stands in frame.rs.
local NAME = ARGV[#ARGV]
local ENTRY, LEASE = KEYS[1] .. 'e:' .. NAME, KEYS[1] .. 'l:' .. NAME
local ZSTD, NEGATIVE, WINDOW, LABELS = 1, 2, 4, 8
local BEFORE_PAYLOAD = 4300 -- more than the longest header

-- Judges an entry: `fresh`, `expired`, or nil if it must not be served again. The second value is what was read of it.
local function judged(epoch, raw)
  if #raw < 21 then return nil end
  local lead = string.byte(raw)
  if lead < 0x20 or lead > 0x2f then return nil end
  local its, built, expiry = struct.unpack('>I7I7I6', raw, 2)
  if its ~= epoch or built < floor then return nil end
  local head = { flags = lead - 0x20, stale = 0 }
  local at, state = 22, 'fresh'
  if bit.band(lead, WINDOW) ~= 0 then
    head.stale = struct.unpack('>I4', raw, at + 4)
    at = at + 8
  end
  if bit.band(lead, ZSTD) ~= 0 then at = at + 4 end
  if bit.band(lead, LABELS) ~= 0 then
    at = at + 1 + string.byte(raw, at)
    local tags, stamps = string.byte(raw, at), {}
    at = at + 1
    for tag = 1, tags do
      local length = string.byte(raw, at) + 1
      local name = string.sub(raw, at + 1, at + length)
      stamps[2 * tag - 1], stamps[2 * tag] = '#' .. name, '~' .. name
      at = at + 1 + length
    end
    if tags > 0 then
      local found = call('ZMSCORE', STATE, unpack(stamps))
      for tag = 1, tags do
        if (tonumber(found[2 * tag - 1]) or 0) > built then return nil end
        if (tonumber(found[2 * tag]) or 0) > built then state, head.soft = 'expired', tonumber(found[2 * tag]) end
      end
    end
  end
  head.payload = at
  if micros() / 1000 >= expiry then state = 'expired' end
  return state, head
end

local function store(epoch, built, now, ttl, kept, lead, tail)
  local head = struct.pack('>I7I7I6', epoch, built, math.floor(now / 1000) + tonumber(ttl))
  call('SET', ENTRY, lead .. head .. tail, 'PX', kept)
end

-- Tells those who wait for the end of a lease that has ended.
local function tell(lease)
  if lease and #lease > 32 then call('PUBLISH', ARGV[6], LEASE) end
end
