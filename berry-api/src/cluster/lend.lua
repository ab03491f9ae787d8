-- Lends one instance a part of a shared amount, and takes in what it used. Everything in one step, by the server's clock.
--
-- KEYS[1]  a hash: `w:NAME:START` = what was used in a bucket of a window; `l:INSTANCE` = "lease until folded used"
-- ARGV     instance, lease_ms, told, used, held, want, need, folds, keep_ms, then for each window: name, span_ms, width_ms, limit
--
-- `told` and `used` are totals of the instance since its start, so that a repeated call counts once. A lease that was not
-- renewed in time is folded: counted as used from its end on, because it may have been. `folds` is 0 for amounts that are
-- only lent and never used, such as places; those are let go instead.
--
-- Returns the lease, the window with least left (from 0), what it has left beside all leases, what was used in that window, and,
-- where less than what is needed could be lent, when more is free: the window that has least until then, in how many ms, and how
-- much may be lent then in all.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local me, lease_ms = ARGV[1], tonumber(ARGV[2])
local told, used, held, want = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local need, folds, keep_ms = tonumber(ARGV[7]), ARGV[8] ~= '0', tonumber(ARGV[9])
local FORGET_MS = 600000
-- A lease from which nobody takes comes back after so long: share.rs's IDLE, and the way.
local IDLE_MS = 1100
local FREES_MAX = 32

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

local others = 0
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

-- If nobody uses more: what was used leaves with its bucket, and what another instance was lent comes back when it is idle. A lease
-- of which nobody spoke for longer is held by requests in flight; that counts as used now.
local function events()
  local found = {}
  for place, window in ipairs(windows) do
    local function event(at, amount) found[#found + 1] = { at = at, place = place, amount = amount } end
    for from, amount in pairs(window.parts) do
      if window.span > 0 then event(from + window.width + window.span, amount) end
    end
    for name, other in pairs(leases) do
      if name ~= me and other.amount > 0 then
        local back = other.till - lease_ms + IDLE_MS
        if back > now then
          event(back, other.amount)
        elseif window.span > 0 then
          event(now - now % window.width + window.width + window.span, other.amount)
        end
      end
    end
  end
  table.sort(found, function(one, another) return one.at < another.at end)
  return found
end

local function narrowest()
  local found = 1
  for place, window in ipairs(windows) do
    if window.room < windows[found].room then found = place end
  end
  return found
end

local frees = {}
if lease < need and least then
  for _, window in ipairs(windows) do window.room = window.limit - window.sum - others end
  local holding = narrowest()
  local free = windows[holding].room
  least, least_at = windows[holding], holding - 1
  local list = events()
  for i, event in ipairs(list) do
    local window = windows[event.place]
    window.room = window.room + event.amount
    local following = list[i + 1]
    if (not following or following.at > event.at) and #frees < FREES_MAX then
      local place = narrowest()
      if windows[place].room > free then
        free = windows[place].room
        frees[#frees + 1] = { holding - 1, event.at - now, math.max(0, free) }
        holding = place
      end
    end
  end
end

redis.call('HSET', KEYS[1], 'l:' .. me, text(lease) .. ' ' .. text(now + lease_ms) .. ' 0 ' .. text(used))
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('PEXPIRE', KEYS[1], keep_ms)
return { lease, least_at, math.max(0, room - lease), least and least.sum or 0, frees }
