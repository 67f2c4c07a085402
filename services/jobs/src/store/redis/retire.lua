-- Whether nothing of this queue is left; then its events go as well. The last fence stays a day longer.
for _, key in ipairs({ 'r::1', 'r::1:first', 'd', 'leases', 'run', 'z:4', 'z:6', 'z:7' }) do
  if call('EXISTS', P .. key) == 1 then return 0 end
end
call('DEL', P .. 'ev')
call('DEL', P .. 'k')
call('PEXPIRE', P .. 'f', 86400000)
return 1
