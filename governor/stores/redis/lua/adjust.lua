-- Corrections of meters. Repeats governor/policy/adjustment.py.
--
-- KEYS  1          the upstream's state
--       then for each correction: b none; k its key; w its log; q its key
-- ARGV  for each correction its kind, then
--         b, k  field ("" for k), interval, more, used, tolerance, capacity
--         w     entries, group, span, more, used, tolerance, reset
--         q     four boundaries, more, used, tolerance
--       more and used are cost units; used is -1 when the upstream said nothing; interval,
--       capacity and reset are µs
-- Reply now
local call, match, format = redis.call, string.match, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
call('HSETNX', KEYS[1], 'since', now)

local function ttl(horizon)
  return math.max(math.ceil((horizon - now) / 1000), 0) + 1000
end

local function bucket(kind, key, p)
  local field, interval, more = ARGV[p + 1], ARGV[p + 2] + 0, ARGV[p + 3] + 0
  local used, tolerance = ARGV[p + 4] + 0, ARGV[p + 5] + 0
  local value = kind == 'b' and call('HGET', KEYS[1], field) or kind == 'k' and call('GET', key)
  local since = tonumber(call('HGET', KEYS[1], 'since'))
  local tat, line = (since < now and since or now) + ARGV[p + 6], 0
  if value then
    tat, line = match(value, '^(%d+)|?(%d*)$')
    tat, line = tonumber(tat), tonumber(line) or 0
  end
  if more > 0 then
    tat = (tat > now and tat or now) + interval * more
  else
    tat = tat + interval * more
  end
  local said = now + interval * used
  if used >= 0 and said - (tat > now and tat or now) > interval * tolerance then tat = said end
  local kept = line > now and format('%.0f|%.0f', tat, line) or tat
  if kind == 'b' then
    call('HSET', KEYS[1], field, kept)
  else
    call('SET', key, kept, 'PX', ttl(line > tat and line or tat))
  end
end

local function log(key, p)
  local entries, group, span = ARGV[p + 1] + 0, ARGV[p + 2] + 0, ARGV[p + 3] + 0
  local more, used = ARGV[p + 4] + 0, ARGV[p + 5] + 0
  local tolerance, reset = ARGV[p + 6] + 0, ARGV[p + 7] + 0
  local latest, open = 0, 0
  local function look()
    latest, open = 0, 0
    local value = call('LINDEX', key, -1)
    if value then
      local stamp, filled = match(value, '^(%d+)|?(%d*)$')
      latest, open = tonumber(stamp), tonumber(filled) or 0
    end
  end
  local function push(at, cost)
    while cost > 0 do
      local taken = math.min(cost, group - open)
      local value = open + taken < group and format('%.0f|%d', at, open + taken) or at
      if open > 0 then call('LSET', key, -1, value) else call('RPUSH', key, value) end
      cost, open = cost - taken, (open + taken) % group
    end
    call('LTRIM', key, -entries, -1)
    call('PEXPIRE', key, ttl(at + span))
  end
  look()
  if more > 0 then
    push(latest > now and latest or now, math.min(more, entries * group))
  end
  while more < 0 and latest > 0 do
    local filled = open > 0 and open or group
    local taken = math.min(-more, filled)
    more = more + taken
    if taken == filled then
      call('RPOP', key)
    else
      call('LSET', key, -1, format('%.0f|%d', latest, filled - taken))
    end
    look()
  end
  if used >= 0 then
    used = math.min(used, entries * group)
    local counted = 0
    look()
    local values = call('LRANGE', key, 0, -1)
    for _, value in ipairs(values) do
      if match(value, '^%d+') + span > now then counted = counted + group end
    end
    if open > 0 and counted > 0 then counted = counted - (group - open) end
    local missing = used - counted
    if missing > tolerance then
      local leaves = reset > 0 and now + reset - span or now
      if leaves > now then leaves = now end
      push(latest > leaves and latest or leaves, missing)
    end
  end
end

local function quota(key, p)
  local begins, ends
  for boundary = p + 2, p + 4 do
    begins, ends = ARGV[boundary - 1] + 0, ARGV[boundary] + 0
    if now < ends then break end
  end
  local more, said, tolerance = ARGV[p + 5] + 0, ARGV[p + 6] + 0, ARGV[p + 7] + 0
  local used, ahead, line = 0, 0, 0
  local value = call('GET', key)
  if value then
    local counted
    counted, used, ahead, line = match(value, '^(%d+)|(%d+)|(%d+)|(%d+)$')
    counted, used, ahead = counted + 0, used + 0, ahead + 0
    if counted ~= ends then
      used = counted == begins and ahead or 0
      ahead = 0
    end
  end
  used = math.max(used + more, 0)
  if said >= 0 and said - used > tolerance then used = said end
  call('SET', key, format('%.0f|%d|%d|%s', ends, used, ahead, line), 'PX', ttl(ARGV[p + 4] + 0))
end

local p, k = 1, 1
while p <= #ARGV do
  local kind = ARGV[p]
  if kind ~= 'b' then k = k + 1 end
  if kind == 'w' then
    log(KEYS[k], p)
  elseif kind == 'q' then
    quota(KEYS[k], p)
  else
    bucket(kind, KEYS[k], p)
  end
  p = p + ((kind == 'b' or kind == 'k') and 7 or 8)
end
return now
