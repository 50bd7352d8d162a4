-- One settlement: what an execution leaves behind. Repeats governor/policy/settlement.py.
--
-- KEYS  1          the upstream's state: a hash of since, pause, breaker, adaptive
--       2          the claim, only when keep is not 0
--       then       the concurrency limits in which the execution holds a lease
-- ARGV  1 token    the delivery that holds the claim and the leases
--       2 action   "finish" | "release" | "renew"
--       3 lease    µs a renewed claim or lease counts as alive
--       4 keep     ms a claim is kept; 0: there is no claim
--       5 pause    µs from now during which the upstream is not called; 0 leaves it
--       6 outcome  "success" | "ignored" | "throttled" | "failed", or ""
--       7 probe    1: it was let through to probe a half-open breaker
--       8 breaker  "failures|of|open_for|ramp|doublings", or ""
--       9 adaptive "floor|cut", or ""
--      10 channel  where those who wait for a lease or a probe are told
--      11 prefix   what the names of leases begin with; the rest is told
-- Reply {now, pause, since, breaker, lost}: µs on this server's clock; pause is 0 when never paused;
-- since when the upstream is known; breaker 0 closed, 1 open, 2 half-open; lost 1: what was to be
-- renewed is not the token's
local call, match, format = redis.call, string.match, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
call('HSETNX', KEYS[1], 'since', now)

local token, action = ARGV[1], ARGV[2]
local claimed = ARGV[4] ~= '0'
local lost = 0
if claimed then
  local claim = call('GET', KEYS[2])
  if claim and match(claim, '^(.*)|%d+$') == token then
    if action == 'finish' then
      call('SET', KEYS[2], 'd', 'PX', ARGV[4])
    elseif action == 'release' then
      call('DEL', KEYS[2])
    else
      call('SET', KEYS[2], format('%s|%.0f', token, now + ARGV[3]), 'PX', ARGV[4])
    end
  elseif action == 'renew' then
    lost = 1
  end
end
for i = claimed and 3 or 2, #KEYS do
  if action == 'renew' then
    if call('ZADD', KEYS[i], 'XX', 'CH', now + ARGV[3], token) == 1 then
      call('PEXPIRE', KEYS[i], math.ceil(ARGV[3] / 1000) + 1000)
    else
      lost = 1
    end
  elseif call('ZREM', KEYS[i], token) == 1 then
    call('PUBLISH', ARGV[10], string.sub(KEYS[i], #ARGV[11] + 1))
  end
end

local outcome = ARGV[6]
if outcome ~= '' and ARGV[8] ~= '' then
  local failures, of, open_for, ramp, doublings = match(ARGV[8], '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  local function open(times)
    local until_ = now + open_for * 2 ^ math.min(times - 1, doublings)
    return format('o|%.0f|%d', until_, times)
  end
  local circuit = call('HGET', KEYS[1], 'breaker') or ''
  local new = circuit
  if not string.find(circuit, '|', 1, true) then
    of = tonumber(of)
    if outcome == 'failed' then
      if new == '' then new = string.rep('0', of) end
      new = string.sub(new .. '1', -of)
      local _, failed = string.gsub(new, '1', '')
      if failed >= tonumber(failures) then new = open(1) end
    elseif outcome == 'success' and new ~= '' then
      new = string.sub(new .. '0', -of)
      if not string.find(new, '1', 1, true) then new = '' end
    end
  elseif ARGV[7] == '1' then
    local level, flying, good, lost_at, times = match(circuit, '^h|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
    if level and outcome == 'failed' then
      new = open(times + 1)
    elseif level and outcome ~= 'success' then
      new = format('h|%s|%d|%s|%s|%s', level, math.max(flying - 1, 0), good, lost_at, times)
      call('PUBLISH', ARGV[10], 'breaker')
    elseif level then
      good = good + 1
      if good < tonumber(level) then
        new = format('h|%s|%d|%d|%s|%s', level, math.max(flying - 1, 0), good, lost_at, times)
      elseif level * 2 > tonumber(ramp) then
        new = ''
      else
        new = format('h|%d|0|0|%s|%s', level * 2, lost_at, times)
      end
      call('PUBLISH', ARGV[10], 'breaker')
    end
  end
  if new == '' then
    if circuit ~= '' then call('HDEL', KEYS[1], 'breaker') end
  elseif new ~= circuit then
    call('HSET', KEYS[1], 'breaker', new)
  end
end

if (outcome == 'throttled' or outcome == 'failed') and ARGV[9] ~= '' then
  local floor, cut = match(ARGV[9], '^(%d+)|(%d+)$')
  local share, cut_at = match(call('HGET', KEYS[1], 'adaptive') or '1024|0', '^(%d+)|(%d+)')
  if tonumber(share) == 1024 or now - cut_at >= 1000000 then
    local left = math.max(tonumber(floor), math.floor(share * cut / 1024))
    call('HSET', KEYS[1], 'adaptive', format('%d|%.0f|%.0f|0', left, now, now))
  end
end

local state = call('HMGET', KEYS[1], 'pause', 'since', 'breaker')
local pause = (state[1] or 0) + 0
local wanted = ARGV[5] + 0
if wanted > 0 and now + wanted > pause then
  pause = now + wanted
  call('HSET', KEYS[1], 'pause', pause)
end
local kind = state[3] and string.sub(state[3], 1, 2)
return {now, pause, state[2] + 0, kind == 'o|' and 1 or kind == 'h|' and 2 or 0, lost}
