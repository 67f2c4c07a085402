-- Whether nothing of this queue is left; then its events go as well. The last fence stays a day longer.
if redis.call('EXISTS', READY, P .. 'd', P .. 'leases', P .. 'run', P .. 'z:4', P .. 'z:6', P .. 'z:7') > 0 then return 0 end
redis.call('DEL', P .. 'ev', P .. 'k')
redis.call('PEXPIRE', P .. 'f', 86400000)
return 1
