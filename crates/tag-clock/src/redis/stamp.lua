-- ARGV: the most stamps of the shard, members. Answers {process}. Without members the floor rises: all entries of the shard miss.
local epoch, run = epoch_of_shard()
local now = tick()
if #ARGV == 6 then
  if now > floor then call('ZADD', STATE, exact(now), 'f') end
else
  for at = 7, #ARGV do stamp(ARGV[at], now) end
  trim(tonumber(ARGV[6]))
end
return { exact(run) }
