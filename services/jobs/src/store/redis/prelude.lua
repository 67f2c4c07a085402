-- Before every script. KEYS[1] is what all keys of the queue begin with, hash tag included; ARGV[1] is the channel that
-- clones listen to and ARGV[2] the queue's name. A function costs time in each run, called or not: those that not every script
-- calls stand in files of their own.
-- Nothing ever has the key KEYS[1], and each command names one key: while a Cluster moves the slot to another node, scripts are
-- refused by that key before they begin, and run on the other node once the last key is there.
local call, P = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local TAIL = 26
