-- Takes in keys that changed at an instance and tells what changed since it last heard.
--
-- KEYS[1]  a hash: id = "generation text"
-- KEYS[2]  a sorted set of ids by the version in which they changed last
-- KEYS[3]  a hash: `epoch`, which names this collection until the store loses it, and `version`
-- ARGV     the epoch and version that the instance knows, a name for a new epoch, a channel for news, then for each key: id,
--          generation, text
--
-- Of two generations of a key the later one holds. Returns epoch, version, whether everything follows, and for each key id,
-- generation and text.
redis.call('HSETNX', KEYS[3], 'epoch', ARGV[3])
local epoch = redis.call('HGET', KEYS[3], 'epoch')
local whole = epoch ~= ARGV[1]
local known = whole and 0 or tonumber(ARGV[2])
local version = nil
for i = 5, #ARGV, 3 do
  local id, generation, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local current = redis.call('HGET', KEYS[1], id)
  if not current or tonumber(generation) > tonumber(string.match(current, '^%d+')) then
    version = version or redis.call('HINCRBY', KEYS[3], 'version', 1)
    redis.call('HSET', KEYS[1], id, generation .. ' ' .. text)
    redis.call('ZADD', KEYS[2], version, id)
  end
end
if version then redis.call('PUBLISH', ARGV[4], 'keys') end
local entries = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. known, '+inf')) do
  local generation, text = string.match(redis.call('HGET', KEYS[1], id), '^(%d+) (.*)$')
  entries[#entries + 1] = { id, tonumber(generation), text }
end
return { epoch, tonumber(redis.call('HGET', KEYS[3], 'version') or '0'), whole and 1 or 0, entries }
