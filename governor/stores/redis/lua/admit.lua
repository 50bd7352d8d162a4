-- One admission over all limits of an upstream. Repeats governor/policy/admission.py.
--
-- KEYS  1             the upstream's state: a hash of since, pause, version, breaker, adaptive, lot,
--                     and one field for each leaky bucket without per=
--       2, 3          when it can be parked: its group's ready set and its lane's queue (park.lua)
--       then for each limit: b none; k its key; w its log and its line; q its key; l its key
--       last          the claim, only when something is claimed
-- ARGV  1 first       where the fields of the upstream's state begin in ARGV
--       2 version     of the limits in force
--       3 grace       µs a paid slot is still good for
--       4 hold        µs up to which a wait is charged at once
--       5 linger      the same for a task whose turn in the line has come
--       6 patience    µs: the instant after which it does not wait, or minus the longest wait
--       7 plain       how many limits there are, if all are b, nothing is held in them or claimed,
--                     and not_before is 0; else 0
--       8 limits      where the limits begin: 18, or 10 when there is nothing to say from 10 to 17
--       9 way         of one that holds nothing: "park" if it can be parked, "whole" if at a wait within
--                     hold every limit is charged at the slot; else ""
--      10 not_before  µs on this server's clock
--      11 token       this delivery's name in the claim and in concurrency limits
--      12 lease       µs a claim or a lease counts as alive
--      13 keep        ms a claim is kept; 0: nothing is claimed
--      14 successes   seen since the last question
--      15 breaker     "of|probe" (calls, µs), or "" for an upstream without one
--      16 adaptive    the step, or "" for an upstream whose rate does not adapt
--      17 late        µs a paid slot is still good for where there is no room now, of a call whose
--                     body came too late; else 0
--      limits ..      for each limit its kind and numbers; held is what the task holds in it: 0
--                     nothing, a paid slot, or minus a slot it stood in line for
--                       b, k  leaky bucket: interval, capacity, held (µs)
--                       w     window: cost, entries, group, span, apart, held
--                       q     quota: cost, most, four boundaries, held
--                       l     concurrency: most
--      first ..       the fields: "breaker" and "adaptive", if 10 to 17 are there; those of the b;
--                     "lot", if it can be parked
-- Reply now, when admitted without having waited; else {status, now, at, limit, charged}
--       0 admit            at = slot; limit = 1 for a probe
--       1 wait, charged    at = until, limit = number of the binding limit,
--                          charged = sum of 2^(number - 1) over the limits charged just now, or
--                          -1 for the only limit, a bucket that is full at until
--       2 wait in line, turn taken now    3 wait in line, turn taken earlier
--       4 wait, nothing taken: for the pause (limit = 0), the breaker (-1) or a lease (number);
--                          charged = 1: it may go earlier, and will be told
--       5 wait for another delivery of this task
--       6 refuse           at = the slot that is too far away
--       7 already done     8 outcome unknown     9 the limits have changed
--      20 others wait in its lane: it goes behind them
--       status + 10 of 1 to 4 and 6 while the upstream is paused
-- What is kept is made a number by adding 0, which fails for what is none: that is told (damage.py).
local call, match, format = redis.call, string.match, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local first, limits = ARGV[1] + 0, ARGV[8] + 0
local state = call('HMGET', KEYS[1], 'since', 'pause', 'version', unpack(ARGV, first))
-- Of the b limits, the first's position in state, and what to add for its field in ARGV.
local buckets, fields = limits > 10 and 6 or 4, first - 4
local since = tonumber(state[1])
if not since then
  since = now
  call('HSET', KEYS[1], 'since', now)
elseif since > now then
  since = now
end
if (state[3] or '0') ~= ARGV[2] then return {9, now, 0, 0, 0} end
local parks, whole = ARGV[9] == 'park', ARGV[9] == 'whole'
local queued = parks and state[#ARGV - first + 4] and
  (call('EXISTS', KEYS[3]) == 1 or call('EXISTS', KEYS[2]) == 1)

-- By far the most frequent question and state: leaky buckets of the hash, nothing held, no pause,
-- nothing seen by the breaker, the whole rate. What follows further down would decide the same; it
-- prepares much that is not needed here.
local plain = ARGV[7] + 0
local quiet = buckets == 4 or not (state[4] or state[5])
if plain > 0 and quiet and (not state[2] or state[2] + 0 <= now) then
  if queued then return {20, now, 0, 0, 0} end
  -- Of the binding limit: its TAT, also as it was read, the end of its line, its interval.
  local until_, binding, meter, text, line, interval = now, 0
  local new = whole and {} or state
  for i = 0, plain - 1 do
    local value, p = state[buckets + i], limits + 4 * i
    local step, capacity = ARGV[p + 1] + 0, ARGV[p + 2] + 0
    local tat, last = tonumber(value or since + capacity)
    if not tat then
      value, last = match(value, '^(%d+)|(%d+)$')
      tat, last = tonumber(value), tonumber(last)
      if last <= now then last = nil end
    end
    local at = tat + step - capacity
    if at > now then
      if last and last > at then at = last end
      if at > until_ then
        until_, binding, meter, text, line, interval = at, i + 1, tat, value, last, step
      end
    else
      -- Its state if the call is made now.
      tat = (tat > now and tat or now) + step
      new[buckets + i] = last and format('%.0f|%.0f', tat, last) or tat
    end
  end
  if binding == 0 then
    local field = fields + buckets
    -- Up to three without a table, which takes a tenth of the whole.
    if plain == 1 then
      call('HSET', KEYS[1], ARGV[field], new[buckets])
    elseif plain == 2 then
      call('HSET', KEYS[1], ARGV[field], new[buckets], ARGV[field + 1], new[buckets + 1])
    elseif plain == 3 then
      call('HSET', KEYS[1], ARGV[field], new[buckets], ARGV[field + 1], new[buckets + 1],
        ARGV[field + 2], new[buckets + 2])
    else
      local put = {}
      for i = 0, plain - 1 do
        put[2 * i + 1], put[2 * i + 2] = ARGV[field + i], new[buckets + i]
      end
      call('HSET', KEYS[1], unpack(put))
    end
    return now
  end
  local give_up_at = ARGV[6] + 0
  if give_up_at < 0 then give_up_at = now - give_up_at end
  if until_ > give_up_at then return {6, now, until_, binding, 0} end
  if not whole then
    local field = ARGV[fields + buckets + binding - 1]
    if until_ - now <= ARGV[4] + 0 then
      local tat = (meter > until_ and meter or until_) + interval
      call('HSET', KEYS[1], field, line and format('%.0f|%.0f', tat, line) or tat)
      local full = plain == 1 and until_ == meter + interval - ARGV[limits + 2]
      return {1, now, until_, binding, full and -1 or 2 ^ (binding - 1)}
    end
    if parks then return {4, now, until_, binding, 0} end
    -- Its meter stays as it was: to make a text of a number again costs as much as a command.
    text = text or format('%.0f', meter)
    call('HSET', KEYS[1], field, text .. '|' .. format('%.0f', until_ + interval))
    return {2, now, until_, binding, 0}
  end
end

local not_before, token, lease, keep, successes, breaks, adapts, late = '0', '', '0', '0', '0', '', '', 0
if limits > 10 then
  not_before, token, lease, keep, successes, breaks, adapts, late = unpack(ARGV, 10, 17)
  late = late + 0
end
local circuit = breaks ~= '' and state[4] or ''
local share, cut_at, grown_at, pressed
if adapts ~= '' and state[5] then
  share, cut_at, grown_at, pressed = match(state[5], '^(%d+)|(%d+)|(%d+)|(%d)$')
  share, grown_at = share + 0, grown_at + 0
end
if successes ~= '0' then
  if circuit ~= '' and not string.find(circuit, '|', 1, true) then
    local of = tonumber(match(breaks, '^%d+'))
    local ring = circuit .. string.rep('0', math.min(tonumber(successes), of))
    circuit = string.sub(ring, -of)
    if string.find(circuit, '1', 1, true) then
      call('HSET', KEYS[1], 'breaker', circuit)
    else
      circuit = ''
      call('HDEL', KEYS[1], 'breaker')
    end
  end
  if share and pressed == '1' and now - grown_at >= 1000000 then
    share, pressed = share + adapts, '0'
    if share >= 1024 then
      share = nil
      call('HDEL', KEYS[1], 'adaptive')
    else
      call('HSET', KEYS[1], 'adaptive', format('%d|%s|%.0f|0', share, cut_at, now))
      grown_at = now
    end
  end
end

local claim_key = keep ~= '0' and KEYS[#KEYS]
local ours = false
if claim_key then
  local claim = call('GET', claim_key)
  if claim then
    if claim == 'd' then return {7, now, 0, 0, 0} end
    if claim == 'x' then return {8, now, 0, 0, 0} end
    local owner, alive_until = match(claim, '^(.*)|(%d+)$')
    ours = owner == token
    if not ours then
      alive_until = tonumber(alive_until)
      if alive_until > now then return {5, now, alive_until, 0, 0} end
      call('SET', claim_key, 'x', 'PX', keep)
      return {8, now, 0, 0, 0}
    end
  end
end

if queued then
  if ours then call('DEL', claim_key) end
  return {20, now, 0, 0, 0}
end

local start = now
local pause = state[2] and state[2] + 0
if pause and pause > start then start = pause end
local floor = not_before + 0
if floor > start then start = floor end
local guarded = circuit ~= '' and string.find(circuit, '|', 1, true)
local broken, half = false, false
if guarded then
  local opens = tonumber(match(circuit, '^o|(%d+)'))
  if not opens then
    local level, flying, good, lost_at = match(circuit, '^h|(%d+)|(%d+)|(%d+)|(%d+)')
    half = true
    lost_at = tonumber(lost_at)
    opens = (flying + good < tonumber(level) or lost_at <= now) and now or lost_at
  end
  if opens > start then
    start = opens
    broken = true
  end
end

local grace, hold = ARGV[3] + 0, ARGV[4] + 0
local until_, binding, bound = start, 0, nil
local slot = now
local number, p, k, shared = 0, limits, parks and 3 or 1, buckets
-- Of each limit: where its arguments begin, its key in KEYS (of a b, its field in ARGV), its
-- interval (of a q, its period's end), its meter (a TAT, or what a quota has used), its line, what
-- else it is made of (calls in a w's open group, a q's next period), and what the task holds in it:
-- 'paid', or a turn in the line that is near, 'turn', or 'lined'.
local at_arg, at_key, interval, meter, line, more, holds = {}, {}, {}, {}, {}, {}, {}
local promised
while p < first do
  number = number + 1
  local kind = ARGV[p]
  local at, held
  at_arg[number] = p
  at_key[number] = k + 1
  if kind == 'b' or kind == 'k' then
    local value
    if kind == 'b' then
      value = state[shared]
      at_key[number] = fields + shared
      shared = shared + 1
    else
      k = k + 1
      value = call('GET', KEYS[k])
    end
    local step, capacity = ARGV[p + 1] + 0, ARGV[p + 2] + 0
    held = ARGV[p + 3] + 0
    p = p + 4
    local tat = tonumber(value or since + capacity)
    if not tat then
      local last
      tat, last = match(value, '^(%d+)|(%d+)$')
      tat, line[number] = tonumber(tat), tonumber(last)
    end
    if share then
      step = math.ceil(step * 1024 / share)
      if step > capacity then capacity = step end
    end
    interval[number], meter[number] = step, tat
    at = (tat > start and tat or start) + step - capacity
    if at < start then at = start end
  elseif kind == 'w' then
    local cost, entries, group = ARGV[p + 1] + 0, ARGV[p + 2] + 0, ARGV[p + 3] + 0
    local span, apart = ARGV[p + 4] + 0, ARGV[p + 5] + 0
    held = ARGV[p + 6] + 0
    p = p + 7
    local log = KEYS[k + 1]
    k = k + 2
    local latest, open = call('LINDEX', log, -1), 0
    if latest and group > 1 then
      local stamp, filled = match(latest, '^(%d+)|(%d+)$')
      if stamp then latest, open = stamp, tonumber(filled) end
    end
    latest = latest and latest + 0
    interval[number], more[number] = apart, open
    at = start
    if latest and latest > at then at = latest end
    local room = open > 0 and group - open or 0
    if cost > room then
      local oldest = call('LINDEX', log, math.ceil((cost - room) / group) - entries - 1)
      if oldest then
        local free = match(oldest, '^%d+') + span
        if free > at then at = free end
      end
    end
    if start < since + span then
      local even = (latest or since) + apart
      if even > at then at = even end
    end
  elseif kind == 'q' then
    local cost, most = ARGV[p + 1] + 0, ARGV[p + 2] + 0
    held = ARGV[p + 7] + 0
    k = k + 1
    local begins, ends, after
    for boundary = p + 4, p + 6 do
      begins, ends = ARGV[boundary - 1] + 0, ARGV[boundary] + 0
      after = boundary < p + 6 and ARGV[boundary + 1] + 0 or 2 * ends - begins
      if now < ends then break end
    end
    p = p + 8
    local counted, used, ahead, last = 0, 0, 0, 0
    local value = call('GET', KEYS[k])
    if value then
      counted, used, ahead, last = match(value, '^(%d+)|(%d+)|(%d+)|(%d+)$')
      counted, used, ahead, last = counted + 0, used + 0, ahead + 0, last + 0
      if counted ~= ends then
        used = counted == begins and ahead or 0
        ahead = 0
      end
    end
    interval[number], meter[number], more[number], line[number] = ends, used, ahead, last
    at = ends
    if start < ends and used + cost <= most then
      at = since > begins and since + (used + cost) * math.ceil((ends - begins) / most) or start
    end
    if at >= ends then at = ahead + cost <= most and ends or after end
    if ahead + cost > most then
      promised = promised or {}
      promised[number] = after
    end
    if start > at then at = start end
  else
    local most = ARGV[p + 1] + 0
    k = k + 1
    p = p + 2
    held = 0
    at = start
    if call('ZCARD', KEYS[k]) >= most then
      call('ZREMRANGEBYSCORE', KEYS[k], '-inf', now)
      local alive = call('ZCARD', KEYS[k])
      if alive >= most and not call('ZSCORE', KEYS[k], token) then
        local until_free = call('ZRANGE', KEYS[k], alive - most, alive - most, 'WITHSCORES')[2] + 0
        if until_free > at then at = until_free end
      end
    end
  end
  if held == 0 then
    if at > now then
      if kind == 'w' then line[number] = tonumber(call('GET', KEYS[k])) end
      local last = line[number]
      if last and last > at then at = last end
    end
  elseif held > 0 and (now <= held + grace or at > now and now <= held + late) and start <= (held > now and held or now) then
    holds[number] = 'paid'
    at = held
    if held < slot then slot = held end
  else
    holds[number] = math.abs(held) <= now + hold and 'turn' or 'lined'
    if -held > at then at = -held end
  end
  if not broken and (at > until_ or (binding == 0 and at > now and not whole)) then
    until_, binding, bound = at, number, kind
  end
end
-- A slot in a quota's next period is one only while that is not promised away.
if promised and until_ > now and not broken then
  for i = 1, number do
    local after = promised[i]
    if after and holds[i] ~= 'paid' and until_ >= interval[i] and after > until_ then
      until_, binding, bound = after, i, 'q'
    end
  end
end

-- What is written: every limit is charged at this instant, or the binding limit and those whose turn
-- has come, or the binding limit's line grows.
local at, lines_up = now, false
local paused = start > now and 10 or 0
if until_ > now then
  if ours then call('DEL', claim_key) end
  if share and pressed == '0' and (bound == 'b' or bound == 'k') then
    call('HSET', KEYS[1], 'adaptive', format('%d|%s|%.0f|1', share, cut_at, grown_at))
  end
  local give_up_at = ARGV[6] + 0
  if give_up_at < 0 then give_up_at = now - give_up_at end
  local woken = bound == 'l' or (broken and half)
  if woken and now <= give_up_at and give_up_at < until_ then until_ = give_up_at end
  if broken then binding = -1 end
  if until_ > give_up_at or (whole and guarded and not woken) then
    return {6 + paused, now, until_, binding, 0}
  end
  if binding < 1 or bound == 'l' then return {4 + paused, now, until_, binding, woken and 1 or 0} end
  local holding = holds[binding]
  local patience = holding == 'turn' and ARGV[5] + 0 or hold
  at, lines_up = until_, holding ~= 'paid' and until_ - now > patience
  if lines_up and holding then return {3 + paused, now, until_, binding, 0} end
  if lines_up and parks then return {4 + paused, now, until_, binding, 0} end
end

-- A meter is kept until all that was charged to it has leaked out and its line is over: never less
-- than what was promised from it.
local function ttl(horizon)
  return math.max(math.ceil((horizon - now) / 1000), 0) + 1000
end

local charged, put = 0, {}
for i = 1, number do
  local charge
  if lines_up then
    charge = false
  else
    charge = holds[i] ~= 'paid' and (whole or at == now or i == binding or holds[i])
  end
  if charge or (lines_up and i == binding) then
    local arg, key = at_arg[i], at_key[i]
    local kind = ARGV[arg]
    if kind == 'b' or kind == 'k' then
      local tat, last = meter[i], line[i]
      if charge then
        tat = (tat > at and tat or at) + interval[i]
      else
        last = at + interval[i]
      end
      local value, horizon = tat, tat
      if last and last > now then
        value = format('%.0f|%.0f', tat, last)
        if last > horizon then horizon = last end
      end
      if kind == 'b' then
        put[#put + 1] = ARGV[key]
        put[#put + 1] = value
      else
        call('SET', KEYS[key], value, 'PX', ttl(horizon))
      end
    elseif kind == 'w' and charge then
      local cost, entries, group, open = ARGV[arg + 1] + 0, ARGV[arg + 2] + 0, ARGV[arg + 3] + 0, more[i]
      local log, length = KEYS[key], 0
      while cost > 0 do
        local taken = math.min(cost, group - open)
        local value = open + taken < group and format('%.0f|%d', at, open + taken) or at
        if open > 0 then call('LSET', log, -1, value) else length = call('RPUSH', log, value) end
        cost, open = cost - taken, (open + taken) % group
      end
      if length > entries then call('LTRIM', log, -entries, -1) end
      call('PEXPIRE', log, ttl(at + ARGV[arg + 4]))
    elseif kind == 'w' then
      local last = at + interval[i]
      call('SET', KEYS[key + 1], last, 'PX', ttl(last))
    elseif kind == 'q' then
      local used, ahead, last = meter[i], more[i], line[i]
      if not charge then
        last = at + 10000
      elseif at >= interval[i] then
        ahead = ahead + ARGV[arg + 1]
      else
        used = used + ARGV[arg + 1]
      end
      call('SET', KEYS[key], format('%.0f|%d|%d|%.0f', interval[i], used, ahead, last),
        'PX', ttl(ARGV[arg + 6] + 0))
    else
      call('ZADD', KEYS[key], now + lease, token)
      call('PEXPIRE', KEYS[key], ttl(now + lease))
    end
    if charge and kind ~= 'l' then charged = charged + 2 ^ (i - 1) end
  end
end
if until_ > now then
  if put[1] then call('HSET', KEYS[1], unpack(put)) end
  if not lines_up and number == 1 and paused == 0 and (bound == 'b' or bound == 'k') and not holds[1] then
    local capacity = math.max(ARGV[at_arg[1] + 2] + 0, interval[1])
    if until_ == meter[1] + interval[1] - capacity then charged = -1 end
  end
  return {(lines_up and 2 or 1) + paused, now, until_, binding, charged}
end

if claim_key then
  call('SET', claim_key, format('%s|%.0f', token, now + lease), 'PX', keep)
end
if guarded then
  local probe = tonumber(match(breaks, '|(%d+)$'))
  local level, flying, good, lost_at, times = match(circuit, '^h|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  if level then
    flying = tonumber(lost_at) <= now and 0 or tonumber(flying)
  else
    level, flying, good, times = 1, 0, 0, match(circuit, '|(%d+)$')
  end
  put[#put + 1] = 'breaker'
  put[#put + 1] = format('h|%s|%d|%s|%.0f|%s', level, flying + 1, good, now + probe, times)
end
if put[1] then call('HSET', KEYS[1], unpack(put)) end
if guarded or slot < now then return {0, now, slot, guarded and 1 or 0, 0} end
return now
