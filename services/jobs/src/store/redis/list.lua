-- ARGV: 3 state, 4 jobs at most, 5 jobs looked at at most, 6 bytes of a header,
-- 7 token: where the last page ended, or ''.
-- Answers {token or '', {id, start of the header, fields}...}, or {'?'} if the token is none.
local state, max, looks = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local jobs, token = {}, ''
local FIELDS = { 'st', 'v', 'a', 'l', 'rt', 'sm', 'fm' }

-- Whether there is room for more.
local function show(id)
  local header = call('GETRANGE', P .. 'j:' .. id, 0, ARGV[6] - 1)
  local s = P .. 's:' .. id
  if header ~= '' and (call('HGET', s, 'st') or '2') == state then
    local fields = {}
    for index, value in ipairs(call('HMGET', s, unpack(FIELDS))) do
      if value then
        fields[#fields + 1] = FIELDS[index]
        fields[#fields + 1] = value
      end
    end
    jobs[#jobs + 1] = { id, header, fields }
  end
  looks = looks - 1
  return #jobs < max and looks > 0
end

-- The ready ones, of both lists: the token is the last id and its place, which can only have come nearer to the head. If it was
-- leased, so was all before it.
local function ready()
  local from, first = 0, call('LLEN', FIRST)
  if ARGV[7] ~= '' then
    local id, place = string.match(ARGV[7], '^(%w+)/(%d+)$')
    if not id then return true end
    local found = call('LPOS', FIRST, id, 'MAXLEN', place + 1)
    if not found and place + 1 > first then
      found = call('LPOS', READY, id, 'MAXLEN', place + 1 - first)
      found = found and found + first
    end
    if found then from = found + 1 end
  end
  local all = first + call('LLEN', READY)
  while from < all do
    local key, at = FIRST, from
    if from >= first then key, at = READY, from - first end
    local ids = call('LRANGE', key, at, at + CHUNK - 1)
    for index, id in ipairs(ids) do
      if not show(id) then
        if all > from + index then token = id .. '/' .. (from + index - 1) end
        return
      end
    end
    from = from + #ids
  end
end

-- A sorted set: the token is the last member and its score, and how far into that member a page got. `each` shows
-- what a member stands for, from some place on; it answers whether to go on, or the place where it stopped. Members
-- with scores up to `past` are not listed.
local function zset(key, each, past)
  local from, skip = 0, 0
  if ARGV[7] ~= '' then
    local member, score, inside = string.match(ARGV[7], '^(%w+)/(%d+)/?(%d*)$')
    if not member then return true end
    if tonumber(call('ZSCORE', key, member) or -1) == tonumber(score) then
      skip = tonumber(inside) or 0
      from = call('ZRANK', key, member) + (skip > 0 and 0 or 1)
    else
      from = call('ZCOUNT', key, '-inf', '(' .. score)
    end
  end
  local forgotten = past and call('ZCOUNT', key, '-inf', past) or 0
  if forgotten > from then from, skip = forgotten, 0 end
  while true do
    local found = call('ZRANGE', key, from, from + CHUNK - 1, 'WITHSCORES')
    if #found == 0 then return end
    for index = 1, #found, 2 do
      local on = each(found[index], skip)
      skip = 0
      if on ~= true then
        local last = found[index] .. '/' .. found[index + 1]
        if on then
          token = last .. '/' .. on
        elseif call('ZCARD', key) > from + (index + 1) / 2 then
          token = last
        end
        return
      end
    end
    from = from + #found / 2
  end
end

local function claim(fence, skip)
  local all = call('GET', P .. 'c:' .. fence) or ''
  for place = skip + 1, #all / TAIL do
    local id = string.sub(all, (place - 1) * TAIL + 1, place * TAIL)
    if holder(id) == fence and not show(id) then return place < #all / TAIL and place end
  end
  return true
end

local bad
if state == '2' then
  bad = ready()
elseif state == '3' then
  bad = zset(P .. 'leases', claim)
elseif state == '1' or state == '5' then
  bad = zset(P .. 'd', show)
else
  -- Those that are forgotten now and not cleared yet count for nothing, as in count.lua.
  bad = zset(P .. 'z:' .. state, show, now)
end
if bad then return { '?' } end
return { token, unpack(jobs) }
