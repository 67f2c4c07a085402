-- ARGV: token, limit in ms. Answers {process, '', entry} if it is there, {process, '', 1} if the lease was granted, and
-- {process, lease, -left} if another load has it for so many ms.
local epoch, run = epoch_of_shard()
if present(epoch) then
  return { exact(run), '', call('GET', ENTRY) }
end
local lease = call('GET', LEASE)
if lease and struct.unpack('>d', lease, 17) == epoch then
  if string.sub(lease, 1, 16) == ARGV[6] then
    return { exact(run), '', 1 }
  end
  if #lease == 32 then
    call('APPEND', LEASE, '+')
  end
  return { exact(run), lease, -math.max(call('PTTL', LEASE), 0) }
end
call('SET', LEASE, ARGV[6] .. struct.pack('>dd', epoch, (tick())), 'PX', ARGV[7])
return { exact(run), '', 1 }
