-- ARGV: place, most events. Answers whether some may be missing, the latest place, and the events after the place.
local events = base .. 'v'
local info = redis.pcall('XINFO', 'STREAM', events)
if info.err then return {ARGV[2] == '0-0' and 0 or 1, '0-0', {}} end
local stream = {}
for at = 1, #info, 2 do stream[info[at]] = info[at + 1] end
local function place(text)
  local millis, seq = string.match(text, '(%d+)-(%d+)')
  return {tonumber(millis), tonumber(seq)}
end
local function before(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end
local last, after = stream['last-generated-id'], place(ARGV[2])
if before(place(last), after) then return {1, last, {}} end
local gap = false
if stream['entries-added'] > stream['length'] and before(after, place(last)) then
  -- Some were trimmed. If what is left begins later than right after the place, some of those may have been between.
  local first = call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local least = first and place(first[1])
  if least then
    least = least[2] > 0 and {least[1], least[2] - 1} or {least[1] - 1, 2 ^ 64}
  end
  gap = not least or before(after, least)
end
return {gap and 1 or 0, last, call('XRANGE', events, '(' .. ARGV[2], '+', 'COUNT', ARGV[3])}
