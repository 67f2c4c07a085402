-- ARGV: 3 id, 4 fence, 5 lease in ms. Answers {'ok', expire}, {'lost'} or {'none'}.
if call('EXISTS', P .. 'j:' .. ARGV[3]) == 0 then return { 'none' } end
if holder(ARGV[3]) ~= ARGV[4] then return { 'lost' } end
allow_growth()
local expire = now + ARGV[5]
call('ZADD', P .. 'leases', expire, ARGV[4])
return { 'ok', string.format('%.0f', expire) }
