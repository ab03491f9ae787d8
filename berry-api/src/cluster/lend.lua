-- Lends one instance a part of a shared amount, and takes in what it used. Everything in one step, by the server's clock.
--
-- KEYS[1]  a hash: `w:NAME:START` = what was used in a bucket of a window; `l:INSTANCE` = "lease until folded used"
-- ARGV     instance, lease_ms, told, used, held, want, need, folds, keep_ms, then for each window: name, span_ms, width_ms, limit
--
-- `told` and `used` are totals of the instance since its start, so that a repeated call counts once. A lease that was not
-- renewed in time is folded: counted as used from its end on, because it may have been. `folds` is 0 for amounts that are
-- only lent and never used, such as places; those are let go instead.
--
-- Returns the lease, the window with least left (from 0), what it has left beside all leases, in how many ms as much
-- as is needed may be lent where it could not be (-1: not known), and what was used in that window.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local me, lease_ms = ARGV[1], tonumber(ARGV[2])
local told, used, held, want = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local need, folds, keep_ms = tonumber(ARGV[7]), ARGV[8] ~= '0', tonumber(ARGV[9])
local FORGET_MS = 600000

local function text(number) return string.format('%.0f', number) end

local windows, by_name = {}, {}
for i = 10, #ARGV, 4 do
  local window = {
    name = ARGV[i], span = tonumber(ARGV[i + 1]), width = tonumber(ARGV[i + 2]), limit = tonumber(ARGV[i + 3]),
    sum = 0, parts = {},
  }
  windows[#windows + 1] = window
  by_name[window.name] = window
end

local leases, gone = {}, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local field, value = fields[i], fields[i + 1]
  if string.sub(field, 1, 2) == 'l:' then
    local amount, till, folded, total = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
    leases[string.sub(field, 3)] =
      { amount = tonumber(amount), till = tonumber(till), folded = tonumber(folded), used = tonumber(total) }
  else
    local name, start = string.match(field, '^w:(.*):(%d+)$')
    local window, from = by_name[name], tonumber(start)
    if window and (window.span == 0 or from + window.width > now - window.span) then
      window.parts[from] = tonumber(value)
      window.sum = window.sum + tonumber(value)
    else
      gone[#gone + 1] = field
    end
  end
end

local function count(amount, at)
  for _, window in ipairs(windows) do
    local from = 0
    if window.span > 0 then from = at - at % window.width end
    if window.span == 0 or from + window.width > now - window.span then
      window.parts[from] = (window.parts[from] or 0) + amount
      window.sum = window.sum + amount
      redis.call('HSET', KEYS[1], 'w:' .. window.name .. ':' .. text(from), text(window.parts[from]))
    end
  end
end

local others, others_till = 0, nil
for name, lease in pairs(leases) do
  if lease.amount > 0 and lease.till <= now then
    if folds then
      count(lease.amount, lease.till)
      lease.folded = lease.folded + lease.amount
    end
    lease.amount = 0
    if name ~= me then
      redis.call('HSET', KEYS[1], 'l:' .. name, '0 ' .. text(lease.till) .. ' ' .. text(lease.folded) .. ' ' .. text(lease.used))
    end
  end
  if name ~= me then
    others = others + lease.amount
    if lease.amount > 0 and (not others_till or lease.till < others_till) then others_till = lease.till end
    if lease.amount == 0 and lease.till + FORGET_MS < now then gone[#gone + 1] = 'l:' .. name end
  end
end

local mine = leases[me] or { amount = 0, folded = 0, used = told }
local fresh = math.max(0, used - mine.used)
-- What is told of a lease that was folded is counted already.
fresh = math.max(0, fresh - mine.folded)
if fresh > 0 then count(fresh, now) end

local room, least, least_at = nil, nil, 0
for place, window in ipairs(windows) do
  local left = window.limit - window.sum - others
  if not room or left < room then room, least, least_at = left, window, place - 1 end
end
room = room or want
local lease = math.max(held, math.min(want, math.max(0, room)))

local free_after = -1
if lease < need then
  for place, window in ipairs(windows) do
    local over = window.sum + others + need - window.limit
    if over > 0 and window.span > 0 then
      local starts = {}
      for from in pairs(window.parts) do starts[#starts + 1] = from end
      table.sort(starts)
      local free_at = nil
      for _, from in ipairs(starts) do
        over = over - window.parts[from]
        if over <= 0 then
          free_at = from + window.width + window.span
          break
        end
      end
      -- The rest is lent to others, who return what they do not use.
      free_at = free_at or others_till or now + 1000
      if free_at - now > free_after then free_after, least, least_at = free_at - now, window, place - 1 end
    end
  end
end

redis.call('HSET', KEYS[1], 'l:' .. me, text(lease) .. ' ' .. text(now + lease_ms) .. ' 0 ' .. text(used))
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('PEXPIRE', KEYS[1], keep_ms)
return { lease, least_at, math.max(0, room - lease), free_after, least and least.sum or 0 }
