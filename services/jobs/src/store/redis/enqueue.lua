-- ARGV: 3 TTL of request_ids, 4 the first byte of headers, then for each job: id, its header after the moment, request_id or
-- '', fingerprint, 'n', 'a' or 't', delay or moment in ms. All are added, or none. Answers for each {'known', id, job...} or
-- {'new', id, create, moment or ''}; {{'differs', id, index}} if a request_id made a job of other fields, here or before, and
-- {{'gone', id, index}} if it made one that is forgotten. The index counts from 0.
local EACH, FROM = 6, 5
local said = {}
for at = FROM, #ARGV, EACH do
  local id, request, print = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if request ~= '' then
    local index = (at - FROM) / EACH
    local made = said[request] or call('GET', P .. 'i:' .. request)
    if made then
      local known, of = string.sub(made, 1, TAIL), string.sub(made, TAIL + 1)
      if of ~= '' and of ~= print then return { { 'differs', known, index } } end
      if not said[request] and call('EXISTS', P .. 'j:' .. known) == 0 then
        return { { 'gone', known, index } }
      end
    end
    said[request] = made or id .. print
  end
end
promote(200)

local made, ready = {}, {}
local create = struct.pack('>I8', now)
local head = ARGV[4] .. create
for at = FROM, #ARGV, EACH do
  local id, request, mode = ARGV[at], ARGV[at + 2], ARGV[at + 4]
  -- Looked up again: one batch may name a request_id twice.
  local known = request ~= '' and call('GET', P .. 'i:' .. request)
  if known then
    known = string.sub(known, 1, TAIL)
    made[#made + 1] = { 'known', known, job(known) }
  else
    call('SET', P .. 'j:' .. id, head .. ARGV[at + 1])
    if request ~= '' then call('SET', P .. 'i:' .. request, id .. ARGV[at + 3], 'PX', ARGV[3]) end
    local moment
    if mode == 'a' then moment = now + ARGV[at + 5] end
    if mode == 't' and tonumber(ARGV[at + 5]) > now then moment = tonumber(ARGV[at + 5]) end
    if moment then
      -- A job without this hash is as it was enqueued, and ready.
      local text = string.format('%.0f', moment)
      call('HSET', P .. 's:' .. id, 'st', 1, 'v', 1, 'rt', text)
      wait_until(id, '1', moment)
      made[#made + 1] = { 'new', id, create, text }
    else
      ready[#ready + 1] = id
      made[#made + 1] = { 'new', id, create, '' }
    end
  end
end
push('RPUSH', ready)
tell()
return made
