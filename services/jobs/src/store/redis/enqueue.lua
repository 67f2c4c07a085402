-- ARGV: 3 TTL of request_ids, then for each job: id, header, request_id or '', fingerprint, 'n', 'a' or 't', delay or
-- moment in ms. All are added, or none. Answers for each {'known', id, job...} or {'new', id, create, moment or ''};
-- {{'differs', id, index}} if a request_id made a job of other fields, here or before, and {{'gone', id, index}} if it
-- made one that is forgotten. The index counts from 0.
local EACH = 6
local said = {}
for at = 4, #ARGV, EACH do
  local id, request, print = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if request ~= '' then
    local index = (at - 4) / EACH
    local made = said[request] or redis.call('GET', P .. 'i:' .. request)
    if made then
      local known, of = string.sub(made, 1, TAIL), string.sub(made, TAIL + 1)
      if of ~= '' and of ~= print then return { { 'differs', known, index } } end
      if not said[request] and redis.call('EXISTS', P .. 'j:' .. known) == 0 then
        return { { 'gone', known, index } }
      end
    end
    said[request] = made or id .. print
  end
end
promote(200)

local made, ready = {}, {}
for at = 4, #ARGV, EACH do
  local id, header, request, print, mode, when = unpack(ARGV, at, at + EACH - 1)
  -- Looked up again: one batch may name a request_id twice.
  local known = request ~= '' and redis.call('GET', P .. 'i:' .. request)
  if known then
    known = string.sub(known, 1, TAIL)
    made[#made + 1] = { 'known', known, job(known) }
  else
    local moment
    if mode == 'a' then moment = now + tonumber(when) end
    if mode == 't' and tonumber(when) > now then moment = tonumber(when) end
    local create = struct.pack('>I8', now)
    redis.call('SET', P .. 'j:' .. id, string.sub(header, 1, 1) .. create .. string.sub(header, 10))
    if request ~= '' then redis.call('SET', P .. 'i:' .. request, id .. print, 'PX', ARGV[3]) end
    if moment then
      -- A job without this hash is as it was enqueued, and ready.
      redis.call('HSET', P .. 's:' .. id, 'st', 1, 'v', 1, 'rt', string.format('%.0f', moment))
      wait_until(id, '1', moment)
    else
      ready[#ready + 1] = id
    end
    made[#made + 1] = { 'new', id, create, moment and string.format('%.0f', moment) or '' }
  end
end
push('RPUSH', ready)
tell()
return made
