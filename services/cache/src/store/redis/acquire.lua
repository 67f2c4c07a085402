-- ARGV: token, limit in ms. Answers {process, '', entry} if it is there, {process, '', 1} if the lease was granted, and
-- {process, lease, -left} if another load has it for so many ms.
local epoch, run = epoch_of_shard()
if present(epoch) then
  return { exact(run), '', redis.call('GET', ENTRY) }
end
local lease = redis.call('GET', LEASE)
if lease and struct.unpack('>d', lease, 17) == epoch then
  if string.sub(lease, 1, 16) == ARGV[5] then
    return { exact(run), '', 1 }
  end
  if #lease == 32 then
    redis.call('APPEND', LEASE, '+')
  end
  return { exact(run), lease, -math.max(redis.call('PTTL', LEASE), 0) }
end
local clock = tick()
redis.call('SET', LEASE, ARGV[5] .. struct.pack('>dd', epoch, clock), 'PX', ARGV[6])
return { exact(run), '', 1 }
