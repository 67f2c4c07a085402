-- ARGV: 3 TTL of request_ids, then for each job: id, header, request_id or '', 'n', 'a' or 't', delay or moment in ms.
-- All are added, or none. Answers for each {'known', id, job...} or {'new', id, create, moment or ''};
-- {{'gone', id}} if a request_id made a job that is forgotten.
for at = 4, #ARGV, 5 do
  local known = ARGV[at + 2] ~= '' and redis.call('GET', P .. 'i:' .. ARGV[at + 2])
  if known and redis.call('EXISTS', P .. 'j:' .. known) == 0 then return { { 'gone', known } } end
end
promote(200)

local made, ready = {}, {}
for at = 4, #ARGV, 5 do
  local id, header, request, mode, when = unpack(ARGV, at, at + 4)
  -- Looked up again: one batch may name a request_id twice.
  local known = request ~= '' and redis.call('GET', P .. 'i:' .. request)
  if known then
    made[#made + 1] = { 'known', known, job(known) }
  else
    local moment
    if mode == 'a' then moment = now + tonumber(when) end
    if mode == 't' and tonumber(when) > now then moment = tonumber(when) end
    local create = struct.pack('>I8', now)
    redis.call('SET', P .. 'j:' .. id, string.sub(header, 1, 1) .. create .. string.sub(header, 10))
    if request ~= '' then redis.call('SET', P .. 'i:' .. request, id, 'PX', ARGV[3]) end
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
