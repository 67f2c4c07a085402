-- ARGV: 3 ticket, 4 its TTL in ms. Gives back what the ticket claimed; if it has not, it never will.
allow_growth()
local ticket = P .. 'n:' .. ARGV[3]
local fence = redis.call('GET', ticket)
redis.call('SET', ticket, 'x', 'PX', ARGV[4])
if not fence or fence == 'x' then return 0 end
local ids = held(fence)
local back = {}
for index = #ids, 1, -1 do
  local id = ids[index]
  local s = P .. 's:' .. id
  redis.call('HSET', s, 'st', 2)
  redis.call('HINCRBY', s, 'a', -1)
  note(id, redis.call('HINCRBY', s, 'v', 1))
  back[#back + 1] = id
end
end_claim(fence, ids)
push('LPUSH', back)
tell()
return #back
