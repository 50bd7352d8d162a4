-- One admission over all limits of an upstream. Repeats governor/policy/admission.py.
--
-- KEYS  1             the upstream's state: a hash of since, pause
--       2 .. n+1      one bucket for each limit
--       n+2           the claim, only when a token is given
-- ARGV  1 grace       µs a reserved slot is still good for
--       2 max_wait    µs, used when give_up_at is not known yet
--       3 give_up_at  µs on this server's clock, or ""
--       4 reserved    number of the limit a slot is held in, or 0
--       5 slot        that slot, µs on this server's clock
--       6 token       this delivery's name, or "" when nothing is claimed
--       7 lease       µs a claim counts as alive
--       8 keep        ms a claim is kept
--       9 ..          interval and capacity of each limit, µs
-- Reply {status, now, at, limit}
--       0 admit            at = slot
--       1 wait, reserved   at = until, limit = number of the binding limit
--       2 wait, reserved earlier
--       3 wait for the pause, 4 wait for another delivery of this task
--       5 refuse           at = the slot that is too far away
--       6 already done     7 outcome unknown
--       status + 10 while the upstream is paused (of 1 and 2)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limits = (#ARGV - 8) / 2
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
    if claim == 'd' then return {6, now, 0, 0} end
    local owner, alive_until = string.match(claim, '^(.*)|(%d+)$')
    ours = owner == token
    if not ours then
      alive_until = tonumber(alive_until)
      if alive_until > now then return {4, now, alive_until, 0} end
      return {7, now, 0, 0}
    end
  end
end

local paused = pause > now and 10 or 0
local reserved = tonumber(ARGV[4])
local paid = 0
local slot = now
if reserved > 0 then
  local held = tonumber(ARGV[5])
  if pause <= held or pause <= now then
    if now < held then
      if ours then redis.call('DEL', claim_key) end
      return {2 + paused, now, held, reserved}
    end
    if now <= held + tonumber(ARGV[1]) then
      paid = reserved
      slot = held
    end
  end
end

local start = pause > now and pause or now
local until_, binding = start, 0
local tats = {}
for i = 1, limits do
  local capacity = tonumber(ARGV[8 + 2 * i])
  local tat = tonumber(redis.call('GET', KEYS[i + 1]) or since + capacity)
  tats[i] = tat
  if i ~= paid then
    local at = (tat > start and tat or start) + tonumber(ARGV[7 + 2 * i]) - capacity
    if at < start then at = start end
    if at > until_ or (binding == 0 and at > now) then
      until_, binding = at, i
    end
  end
end

-- A bucket is kept until it has leaked empty: never less than its reserved horizon.
local function pour(i, at)
  local tat = tats[i]
  if tat < at then tat = at end
  tat = tat + tonumber(ARGV[7 + 2 * i])
  redis.call('SET', KEYS[i + 1], string.format('%.0f', tat),
    'PX', string.format('%.0f', math.ceil((tat - now) / 1000) + 1000))
end

if until_ <= now then
  for i = 1, limits do
    if i ~= paid then pour(i, now) end
  end
  if token ~= '' then
    redis.call('SET', claim_key, string.format('%s|%.0f', token, now + tonumber(ARGV[7])), 'PX', ARGV[8])
  end
  return {0, now, slot, 0}
end

if ours then redis.call('DEL', claim_key) end
local give_up_at = tonumber(ARGV[3]) or now + tonumber(ARGV[2])
if until_ > give_up_at then return {5, now, until_, binding} end
if binding == 0 then return {3, now, until_, 0} end
pour(binding, start)
return {1 + paused, now, until_, binding}
