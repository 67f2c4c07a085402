-- ARGV: 3 ticket, 4 its TTL in ms. Gives back what the ticket claimed; if it has not, it never will.
allow_growth()
local ticket = P .. 'n:' .. ARGV[3]
local fence = call('GET', ticket)
call('SET', ticket, 'x', 'PX', ARGV[4])
if not fence or fence == 'x' then return 0 end
local ids = held(fence)
local back = {}
for index = #ids, 1, -1 do
  local id = ids[index]
  local s = P .. 's:' .. id
  call('HSET', s, 'st', 2)
  call('HINCRBY', s, 'a', -1)
  note(id, call('HINCRBY', s, 'v', 1))
  back[#back + 1] = id
end
if #ids > 0 then chunked('HDEL', P .. 'run', ids) end
end_claim(fence)
push('LPUSH', back)
tell()
return #back
