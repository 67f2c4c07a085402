-- ARGV: the length in us, the most stamps of the shard, the epoch and the stamp of the intent that is extended (0, 0 for a new
-- one), tags. Answers {process, epoch, stamp}.
local INTENTS, LOST = KEYS[1] .. 'w', 1000000
local epoch, run = epoch_of_shard()
local now = tick()
local length = tonumber(ARGV[6])
local ends = now + length
local open = tonumber(ARGV[8]) == epoch and tonumber(ARGV[9]) >= now
for at = 10, #ARGV do
  local member = '#' .. ARGV[at]
  if not open then
    -- Others are counted while their stamp lies ahead. Where the count was lost nobody may lower the stamp: it runs out.
    local others = 0
    if (tonumber(call('ZSCORE', STATE, member)) or 0) > now then
      others = tonumber(call('HGET', INTENTS, ARGV[at])) or LOST
    end
    call('HSET', INTENTS, ARGV[at], others + 1)
  end
  stamp(member, ends)
end
call('PEXPIRE', INTENTS, math.ceil(length / 500) + 1000)
trim(tonumber(ARGV[7]))
return { exact(run), exact(epoch), exact(ends) }
