-- Whether nothing of this queue needs tending; then its events go as well. The last fence stays a day longer.
if redis.call('EXISTS', READY, P .. 'd', P .. 'leases', P .. 'run') > 0 then return 0 end
redis.call('DEL', P .. 'ev')
redis.call('PEXPIRE', P .. 'f', 86400000)
return 1
