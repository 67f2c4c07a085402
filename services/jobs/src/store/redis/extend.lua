-- ARGV: 3 id, 4 fence, 5 lease in ms. Answers {'ok', expire}, {'lost'} or {'none'}.
allow_growth()
if redis.call('EXISTS', P .. 'j:' .. ARGV[3]) == 0 then return { 'none' } end
if holder(ARGV[3]) ~= ARGV[4] then return { 'lost' } end
local expire = now + tonumber(ARGV[5])
redis.call('ZADD', P .. 'leases', expire, ARGV[4])
return { 'ok', string.format('%.0f', expire) }
