-- ARGV: token, limit in ms, '1' to refresh an entry that is fresh. Answers {process, 0, entry, its ttl} if a fresh one is there,
-- {process, 1, previous entry, its ttl, its SOFT stamp} if the lease was granted, and {process, 2, lease, ms that are left} if another
-- load has it.
local epoch, run = epoch_of_shard()
local raw = call('GET', ENTRY)
local state, head
if raw then state, head = judged(epoch, raw) end
if state == 'fresh' and ARGV[9] ~= '1' then
  return { exact(run), 0, raw, call('PTTL', ENTRY) }
end
local lease = call('GET', LEASE)
if lease and struct.unpack('>d', lease, 17) == epoch and string.sub(lease, 1, 16) ~= ARGV[7] then
  if #lease == 32 then
    call('APPEND', LEASE, '+')
  end
  return { exact(run), 2, lease, math.max(call('PTTL', LEASE), 0) }
end
if not lease or string.sub(lease, 1, 16) ~= ARGV[7] or struct.unpack('>d', lease, 17) ~= epoch then
  call('SET', LEASE, ARGV[7] .. struct.pack('>dd', epoch, (tick())), 'PX', ARGV[8])
end
if not state then
  return { exact(run), 1, '', 0, '0' }
end
return { exact(run), 1, raw, call('PTTL', ENTRY), exact(head.soft or 0) }
