-- One admission over all limits of an upstream. Repeats governor/policy/admission.py.
--
-- KEYS  1             the upstream's state: a hash of since, pause
--       2 .. n+1      one bucket for each limit: "tat", or "tat|line" while tasks wait in line
--       n+2           the claim, only when a token is given
-- ARGV  1 grace       µs a paid slot is still good for
--       2 hold        µs up to which a wait is charged at once
--       3 linger      the same for a task whose turn in the line has come, µs
--       4 max_wait    µs, used when give_up_at is not known yet
--       5 give_up_at  µs on this server's clock, or ""
--       6 token       this delivery's name, or "" when nothing is claimed
--       7 lease       µs a claim counts as alive
--       8 keep        ms a claim is kept
--       9 ..          for each limit: interval and capacity, µs, and what the task holds in
--                     it: 0 nothing, a paid slot, or minus a slot it stood in line for
-- Reply {status, now, at, limit, charged}
--       0 admit            at = slot
--       1 wait, charged    at = until, limit = number of the binding limit,
--                          charged = sum of 2^(number - 1) over the limits charged just now
--       2 wait in line, place taken now   3 wait in line, place taken earlier
--       4 wait for the pause              5 wait for another delivery of this task
--       6 refuse           at = the slot that is too far away
--       7 already done                    8 outcome unknown
--       status + 10 of 1 to 4 while the upstream is paused
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limits = (#ARGV - 8) / 3
local state = redis.call('HMGET', KEYS[1], 'since', 'pause')
local since = tonumber(state[1])
local pause = tonumber(state[2]) or 0
if not since then
  since = now
  redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now))
elseif since > now then
  since = now
end

local token = ARGV[6]
local claim_key = KEYS[limits + 2]
local ours = false
if token ~= '' then
  local claim = redis.call('GET', claim_key)
  if claim then
    if claim == 'd' then return {7, now, 0, 0, 0} end
    local owner, alive_until = string.match(claim, '^(.*)|(%d+)$')
    ours = owner == token
    if not ours then
      alive_until = tonumber(alive_until)
      if alive_until > now then return {5, now, alive_until, 0, 0} end
      return {8, now, 0, 0, 0}
    end
  end
end

local grace = tonumber(ARGV[1])
local hold = tonumber(ARGV[2])
local start = pause > now and pause or now
local until_, binding = start, 0
local slot = now
local tats, lines, paid, lined, turn = {}, {}, {}, {}, {}
for i = 1, limits do
  local interval = tonumber(ARGV[6 + 3 * i])
  local capacity = tonumber(ARGV[7 + 3 * i])
  local held = tonumber(ARGV[8 + 3 * i])
  local value = redis.call('GET', KEYS[i + 1])
  local tat, line = tonumber(value or since + capacity), 0
  if not tat then
    tat, line = string.match(value, '^(%d+)|(%d+)$')
    tat, line = tonumber(tat), tonumber(line)
  end
  tats[i], lines[i] = tat, line
  local at
  if held > 0 and now <= held + grace and (pause <= held or pause <= now) then
    paid[i] = true
    at = held
    if held < slot then slot = held end
  else
    at = (tat > start and tat or start) + interval - capacity
    if at < start then at = start end
    if held ~= 0 then
      lined[i] = true
      turn[i] = math.abs(held) <= now + hold
      if -held > at then at = -held end
    elseif at > now and line > at then
      at = line
    end
  end
  if at > until_ or (binding == 0 and at > now) then
    until_, binding = at, i
  end
end

-- A bucket is kept until it has leaked empty and its line is over: never less than what was
-- promised from it.
local function write(i, tat, line)
  local horizon, value = tat, string.format('%.0f', tat)
  if line > now then
    value = string.format('%s|%.0f', value, line)
    if line > horizon then horizon = line end
  end
  redis.call('SET', KEYS[i + 1], value,
    'PX', string.format('%.0f', math.ceil((horizon - now) / 1000) + 1000))
end

local function pour(i, at)
  local tat = tats[i]
  if tat < at then tat = at end
  write(i, tat + tonumber(ARGV[6 + 3 * i]), lines[i])
end

if until_ <= now then
  for i = 1, limits do
    if not paid[i] then pour(i, now) end
  end
  if token ~= '' then
    redis.call('SET', claim_key, string.format('%s|%.0f', token, now + tonumber(ARGV[7])), 'PX', ARGV[8])
  end
  return {0, now, slot, 0, 0}
end

if ours then redis.call('DEL', claim_key) end
local give_up_at = tonumber(ARGV[5]) or now + tonumber(ARGV[4])
if until_ > give_up_at then return {6, now, until_, binding, 0} end
local paused = pause > now and 10 or 0
if binding == 0 then return {4 + paused, now, until_, 0, 0} end

if paid[binding] or until_ - now <= (turn[binding] and tonumber(ARGV[3]) or hold) then
  local charged = 0
  for i = 1, limits do
    if not paid[i] and (i == binding or lined[i]) then
      pour(i, until_)
      charged = charged + 2 ^ (i - 1)
    end
  end
  return {1 + paused, now, until_, binding, charged}
end
if lined[binding] then return {3 + paused, now, until_, binding, 0} end
write(binding, tats[binding], until_ + tonumber(ARGV[6 + 3 * binding]))
return {2 + paused, now, until_, binding, 0}
