local changed = {}
local function note(id, version)
  changed[#changed + 1] = id .. string.format('%d', version)
end

-- How many jobs are scheduled (1), ready (2) and retrying (5): the lists may hold some that were cancelled.
local counts = {}
local function count(state, delta)
  counts[state] = (counts[state] or 0) + delta
end

-- One packed entry for everything this script changed.
local function tell()
  for state, delta in pairs(counts) do
    if delta ~= 0 then call('HINCRBY', P .. 'k', state, delta) end
  end
  if #changed > 0 then
    call('XADD', P .. 'ev', 'MAXLEN', '~', 10000, '*', 'e', table.concat(changed, ' '))
  end
end
