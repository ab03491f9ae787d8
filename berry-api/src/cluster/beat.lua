-- Says that an instance lives.
--
-- KEYS  a sorted set of instances by the time of their last beat; what keys.lua says of its version
-- ARGV  instance, life_ms
-- Returns how many live, and epoch and version of the keys.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life = tonumber(ARGV[2])
-- First what a store with full memory refuses: a script that has removed something is let go on, and nobody would hear of it.
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life)
redis.call('PEXPIRE', KEYS[1], life)
local version = redis.call('HMGET', KEYS[2], 'epoch', 'version')
return { redis.call('ZCARD', KEYS[1]), version[1], version[2] }
