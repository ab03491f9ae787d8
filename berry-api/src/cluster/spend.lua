-- Grants one instance a part of an amount of money, and takes in what it spent. Everything in one step.
--
-- KEYS[1]  a hash: `before` = what ledgers know of that nobody here told; INSTANCE = "spent granted heard"
-- ARGV     instance, forget_ms, keep_ms (0: for ever), limit, before, spent, held, want
--
-- All amounts are totals of the instance in this period since its start, so that a repeated call changes nothing: what it spent, the
-- least grant that it can do with (what it spent and reserved), and the grant that it wants. `before` is what the ledger says that
-- was spent before the instance started: at least so much was, whoever told it.
--
-- What is granted counts as spent until the instance says otherwise, or for `forget_ms` without a word of it.
--
-- Returns the grant, what everybody else spent, and what is left beside all grants.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local me, forget_ms, keep_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, known = tonumber(ARGV[4]), tonumber(ARGV[5])
local spent, held, want = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local function text(number) return string.format('%.0f', number) end

-- Of an instance that is silent for thirty days what it spent is kept, and its name is not: processes come and go.
local FORGET_NAME_MS = 30 * 86400000
local before, others_spent, others_granted, gone = 0, 0, 0, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'before' then
    before = tonumber(value)
  elseif name ~= me then
    local other, granted, heard = string.match(value, '^(%d+) (%d+) (%d+)$')
    other, granted, heard = tonumber(other), tonumber(granted), tonumber(heard)
    others_spent = others_spent + other
    if heard + forget_ms < now then granted = other end
    others_granted = others_granted + math.max(other, granted)
    if heard + FORGET_NAME_MS < now then gone[#gone + 1] = { name, other } end
  end
end
if known > before + others_spent then
  before = known - others_spent
  redis.call('HSET', KEYS[1], 'before', text(before))
end

for _, instance in ipairs(gone) do
  before = before + instance[2]
  others_spent = others_spent - instance[2]
  others_granted = others_granted - instance[2]
  redis.call('HDEL', KEYS[1], instance[1])
end
if #gone > 0 then redis.call('HSET', KEYS[1], 'before', text(before)) end

local room = math.max(0, limit - before - others_granted)
local granted = math.max(held, math.min(want, room))
redis.call('HSET', KEYS[1], me, text(spent) .. ' ' .. text(granted) .. ' ' .. text(now))
if keep_ms > 0 then redis.call('PEXPIRE', KEYS[1], keep_ms) end
return { granted, before + others_spent, math.max(0, room - granted) }
