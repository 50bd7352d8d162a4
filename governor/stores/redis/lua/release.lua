-- Releases parked tasks that may go now. Repeats Lot.release in governor/policy/parking_lot.py; what the
-- lot is made of is told in park.lua. lib.lua stands before it, and admit.lua as admit(KEYS, ARGV): a task
-- is released by being admitted.
--
-- KEYS  1 state  2 lot  3 lanes  4 flows  5 out  6 groups  7 beside, then for each group its ready
--       and its blocked set.
--       Queues, and what limits with per= keep, are named by what the lot says.
-- ARGV  1 room      at most so many tasks
--       2 ahead     µs before its slot at which a task is released
--       3 lease     µs a released task, and a lease it holds, is kept without a sign of life
--       4 token     released task n holds its leases as "token.n"
--       5 prefix    of the names of limits' keys, and before an "@" of the lot's
--       6 version   of the limits in force
--       7 successes   8 breaker   9 adaptive   as in an admission
--      10 news      1: blocked lanes are looked at again
--      11 most lanes passed   12 most lanes unblocked in a group   13 most tasks taken back
--      14 pace      µs for which released tasks are counted together
--      15 turn      how far a call of cost 1 moves a tag of weight 1
--      16, 17, 18   how many entries have ended, buckets came free, buckets are paused
--      19 ..        those entries; those buckets; those buckets, each with the µs of its pause's end;
--       then for each group the number of its limits, and for each limit its kind, its bucket (of
--       one with per= the bucket's beginning), 1 for one with per=, the most a call may cost, and
--                       b  numerator and denominator of its interval, burst less margin (µs)
--                       w  entries, group, span
--                       q  four boundaries
-- Reply {now, next, more, waiting, stale (2: a lane was set aside for a second, because a script
--       stumbled over what is kept for it)}, then for each released task entry, slot, n, value: n is
--       1 for a probe, 2 for one that is late, 3 where its bucket is full at slot, else 0; value is as
--       in the lot
local ceil, max, min = math.ceil, math.max, math.min
local state, lot, lanes, flows, out = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local room, lease, prefix = ARGV[1] + 0, ARGV[3] + 0, ARGV[5]

local known = call('HMGET', state, 'version', 'lot', 'released')
local waiting = tonumber(known[2] or 0)
local before = waiting
-- A script that has written may write on in a full store, and release makes room: this changes nothing.
call('HDEL', lot, '')
local at = 19
if ARGV[16] ~= '0' then
  local ended, beside = {}, {}
  for i, score in ipairs(call('ZMSCORE', out, unpack(ARGV, at, at + ARGV[16] - 1))) do
    local entry = ARGV[at + i - 1]
    if score then
      ended[#ended + 1] = entry
      if string.find(entry, ':', 1, true) then beside[#beside + 1] = entry end
    end
  end
  if ended[1] then
    call('ZREM', out, unpack(ended))
    call('HDEL', lot, unpack(ended))
    if beside[1] then call('ZREM', KEYS[7], unpack(beside)) end
  end
  at = at + ARGV[16]
end
if (known[1] or '0') ~= ARGV[6] then return {now, 0, 0, waiting, 1} end

-- The tags of flows are read once, and written once at the end.
local virtual = tonumber(call('HGET', flows, '-') or 0)
local tags, moved = {}, {}
local function tag_of(flow)
  local tag = tags[flow]
  if not tag then
    tag = tonumber(call('HGET', flows, flow) or 0)
    tags[flow] = tag
  end
  return tag
end
local function record_of(lane)
  -- Without its record, which only an eviction can take, a lane is one like any other.
  return lane_of(call('HGET', lanes, lane) or '?\31?\31\31\31\31')
end
local function make_ready(ready, lane)
  local _, flow = record_of(lane)
  call('ZADD', ready, max(virtual, tag_of(flow)), lane)
end

local freed, paused, any_paused = {}, {}, false
for _ = 1, ARGV[17] do
  freed[#freed + 1] = ARGV[at]
  at = at + 1
end
for _ = 1, ARGV[18] do
  paused[ARGV[at]] = ARGV[at + 1] + 0
  any_paused = true
  at = at + 2
end

for _, entry in ipairs(call('ZRANGEBYSCORE', out, '-inf', now, 'LIMIT', 0, ARGV[13])) do
  call('ZREM', out, entry)
  local lane = entry_of(call('HGET', lot, entry) or '')
  if lane then
    waiting = waiting + 1
    if call('LPUSH', prefix .. '@q:' .. lane, entry) == 1 then
      make_ready(prefix .. '@r:' .. record_of(lane), lane)
    end
  end
end

-- For each group what admit is given for a call of its first lane.
local more = 0
local groups = {}
for k = 8, #KEYS, 2 do
  local limits, args, names = {}, {}, {state}
  local g = {ready = KEYS[k], blocked = KEYS[k + 1], limits = limits, args = args, names = names,
    costs = false, leases = false, plain = 0}
  groups[#groups + 1] = g
  for i = 1, ARGV[at] do
    local limit = {kind = ARGV[at + 1], bucket = ARGV[at + 2], per = ARGV[at + 3] == '1',
      most = ARGV[at + 4] + 0, numbers = at + 5}
    limits[i] = limit
    if limit.kind == 'b' then
      limit.numerator, limit.denominator, limit.capacity = ARGV[at + 5] + 0, ARGV[at + 6] + 0, ARGV[at + 7] + 0
      if not limit.per then g.plain = g.plain + 1 end
      at = at + 7
    elseif limit.kind == 'w' then
      limit.entries, limit.group, limit.span = ARGV[at + 5] + 0, ARGV[at + 6] + 0, ARGV[at + 7] + 0
      at = at + 7
    elseif limit.kind == 'q' then
      at = at + 8
    else
      g.leases = true
      at = at + 4
    end
  end
  at = at + 1
  if g.plain < #limits then g.plain = 0 end
  local said = g.leases or any_paused or ARGV[8] ~= '' or ARGV[9] ~= ''
  local fields = said and {'breaker', 'adaptive'} or {}
  local p, n = said and 18 or 10, 2
  args[2], args[3], args[4], args[5], args[6], args[7], args[8], args[9] =
    ARGV[6], 0, ARGV[2], 0, -ARGV[2], g.plain, p, 'whole'
  if said then
    args[10], args[11], args[12], args[13], args[14], args[15], args[16], args[17] =
      0, '', lease, '0', '0', ARGV[8], ARGV[9], 0
  end
  g.said = said
  for _, limit in ipairs(limits) do
    limit.at, limit.key = p, n
    args[p] = limit.kind
    if limit.kind == 'b' then
      args[p + 3] = 0
      if limit.per then
        args[p] = 'k'
        n = n + 1
      else
        fields[#fields + 1] = 'b:' .. limit.bucket
      end
      p = p + 4
    else
      names[n] = prefix .. limit.bucket
      n = n + 1
      if limit.kind == 'w' then
        names[n] = names[n - 1] .. ':line'
        n = n + 1
        args[p + 2], args[p + 3], args[p + 4], args[p + 6] = limit.entries, limit.group, limit.span, 0
        p = p + 7
      elseif limit.kind == 'q' then
        args[p + 2] = limit.most
        for boundary = 0, 3 do args[p + 3 + boundary] = ARGV[limit.numbers + boundary] end
        args[p + 7] = 0
        p = p + 8
      else
        args[p + 1] = limit.most
        p = p + 2
      end
    end
  end
  args[1] = p
  for i, field in ipairs(fields) do args[p + i - 1] = field end

  for _, bucket in ipairs(freed) do
    local stuck = prefix .. '@s:' .. bucket
    for _, lane in ipairs(call('SMEMBERS', stuck)) do
      if call('ZREM', g.blocked, lane) == 1 then
        call('SREM', stuck, lane)
        make_ready(g.ready, lane)
      end
    end
  end
  local due = call('ZRANGEBYSCORE', g.blocked, '-inf', ARGV[10] == '1' and '+inf' or now,
    'LIMIT', 0, ARGV[12] + 1)
  if #due > ARGV[12] + 0 then
    more = 1
    due[#due] = nil
  end
  for _, lane in ipairs(due) do
    call('ZREM', g.blocked, lane)
    make_ready(g.ready, lane)
  end
end

-- What the call of a lane's first is charged.
local function price(g, costs)
  g.costs, g.most = costs, 1
  local i = 0
  for cost in string.gmatch(costs, '%d+') do
    i = i + 1
    cost = cost + 0
    if cost > g.most then g.most = cost end
    local limit = g.limits[i]
    if limit then
      local p = limit.at
      if cost > limit.most then cost = limit.most end
      if limit.kind == 'b' then
        local interval = ceil(cost * limit.numerator / limit.denominator)
        g.args[p + 1], g.args[p + 2] = interval, max(limit.capacity, interval)
      elseif limit.kind == 'w' then
        g.args[p + 1] = cost
        g.args[p + 5] = ceil(limit.span * cost / (limit.entries * limit.group))
      elseif limit.kind == 'q' then
        g.args[p + 1] = cost
      end
    end
  end
end

local reply = {now, 0, 0, 0, 0}
local released, late, passed = 0, 0, 0
local successes, failure, aside, next_at = ARGV[7], nil, 0, nil
local function wait_until(moment)
  if not next_at or moment < next_at then next_at = moment end
end

local buckets = {}
local function buckets_of(lane)
  if not buckets[lane] then
    local _, _, _, own = record_of(lane)
    buckets[lane] = own
  end
  return buckets[lane]
end

-- Asks admit for the first of a lane: true, its answer, and until when a bucket of the lane is paused; or
-- false and what failed.
local function decide(g, lane, costs)
  local args, not_before = g.args, 0
  if costs ~= g.costs then price(g, costs) end
  if any_paused then
    for _, bucket in ipairs(buckets_of(lane)) do
      not_before = max(not_before, paused[bucket] or 0)
    end
  end
  for i, limit in ipairs(g.limits) do
    if limit.per then
      local name = prefix .. buckets_of(lane)[i]
      g.names[limit.key] = name
      if limit.kind == 'w' then g.names[limit.key + 1] = name .. ':line' end
    end
  end
  if g.said then
    args[7] = not_before > 0 and 0 or g.plain
    args[10], args[14] = not_before, successes
    successes = '0'
  end
  if g.leases then args[11] = ARGV[4] .. '.' .. released end
  local decided, answer = pcall(admit, g.names, args)
  return decided, answer, not_before
end

-- Whether what failed may be kept for one lane alone.
local function may_be_own(g, failed)
  local text = type(failed) == 'table' and failed.err or tostring(failed)
  if not (string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true)) then return false end
  for _, limit in ipairs(g.limits) do
    if limit.per then return true end
  end
  return false
end

-- Takes the lane's first out of its queue; the turn of what comes behind it is at this tag.
local function release(g, lane, tag, entry, behind, slot, n, value)
  call('LPOP', prefix .. '@q:' .. lane)
  call('ZADD', out, now + lease, entry)
  if behind then
    call('ZADD', g.ready, tag, lane)
  else
    call('ZREM', g.ready, lane)
  end
  released = released + 1
  local r = #reply
  reply[r + 1], reply[r + 2], reply[r + 3], reply[r + 4] = entry, slot, n, value
end

local function block(g, lane, moment)
  call('ZREM', g.ready, lane)
  call('ZADD', g.blocked, moment, lane)
end

while true do
  local g, tag, lane
  for i = #groups, 1, -1 do
    local one = groups[i]
    local first = not one.stopped and call('ZRANGE', one.ready, 0, 0, 'WITHSCORES') or {}
    local name, its = first[1], tonumber(first[2])
    if name and (not g or its < tag or (its == tag and name < lane)) then g, tag, lane = one, its, name end
  end
  if not g then break end
  local entry, behind = unpack(call('LRANGE', prefix .. '@q:' .. lane, 0, 1))
  local value = entry and (call('HGET', lot, entry) or '|1|1|0|?|1|\n')
  local _, costs, deadline, _, flow, weight = entry_of(value or '')
  if not entry then
    -- Its queue is gone, which only an eviction can do.
    call('ZREM', g.ready, lane)
  elseif tag_of(flow) > tag then
    call('ZADD', g.ready, tag_of(flow), lane)
  elseif released >= room or passed >= ARGV[11] + 0 then
    more = 1
    break
  elseif deadline > 0 and deadline <= now then
    late = late + 1
    release(g, lane, tag, entry, behind, now, 2, value)
  else
    local decided, answer, not_before = decide(g, lane, costs)
    local plain = type(answer) == 'number'
    local status = decided and (plain and 0 or answer[1] % 10)
    if not decided then
      if not may_be_own(g, answer) then
        -- Raised here, it would keep from the asker what was released.
        failure = answer
        break
      end
      -- The others go on.
      aside = 2
      passed = passed + 1
      block(g, lane, now + 1000000)
    elseif status < 2 then
      virtual = max(virtual, tag)
      tags[flow] = tag + ceil(g.most * ARGV[15] / weight)
      moved[flow] = true
      local n = 0
      if not plain then n = status == 0 and answer[4] or answer[5] == -1 and 3 or 0 end
      release(g, lane, tags[flow], entry, behind, plain and answer or answer[3], n, value)
    else
      local number = answer[4]
      local woken = status == 4 and answer[5] == 1
      local moment = woken and now + lease or answer[3]
      if deadline > 0 and deadline < moment then moment = deadline end
      passed = passed + 1
      if number > 0 and g.limits[number].per or number == 0 and answer[3] == not_before then
        block(g, lane, moment)
        if woken then
          local stuck = prefix .. '@s:' .. buckets_of(lane)[number]
          call('SADD', stuck, lane)
          call('PEXPIRE', stuck, 86400000)
        end
      else
        -- What they all share says no to whoever is next.
        g.stopped = true
        wait_until(moment)
      end
    end
  end
end

for _, g in ipairs(groups) do
  local blocked = call('ZRANGE', g.blocked, 0, 0, 'WITHSCORES')
  if blocked[2] then wait_until(blocked[2] + 0) end
end
local soonest = call('ZRANGE', out, 0, 0, 'WITHSCORES')
if soonest[2] then wait_until(soonest[2] + 0) end

waiting = waiting - released
if waiting > 0 then
  if waiting ~= before then call('HSET', state, 'lot', waiting) end
  local put = {'-', virtual}
  for flow in pairs(moved) do
    put[#put + 1] = flow
    put[#put + 1] = tags[flow]
  end
  if released > 0 then call('HSET', flows, unpack(put)) end
else
  if before > 0 then call('HDEL', state, 'lot') end
  call('DEL', flows)
  if not soonest[2] then call('DEL', lanes, KEYS[6]) end
end
if released > late then
  local began, counted, earlier = match(known[3] or '0|0|0', '^(%d+)|(%d+)|(%d+)$')
  local passed_by = now - began
  if passed_by >= 2 * ARGV[14] then
    began, counted, earlier = now, 0, 0
  elseif passed_by >= ARGV[14] + 0 then
    began, counted, earlier = began + ARGV[14], 0, counted
  end
  call('HSET', state, 'released', format('%.0f|%d|%d', began, counted + released - late, earlier))
end
-- What has gone is told first. Whoever asks again is told of the failure.
if failure then
  if released == 0 then error(failure, 0) end
  more = 1
end
reply[2], reply[3], reply[4], reply[5] = next_at or 0, more, waiting, aside
return reply
