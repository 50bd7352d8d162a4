-- Releases parked tasks that may go now. Repeats Lot.release in governor/policy/parking_lot.py; what the
-- lot is made of is told in park.lua. admit.lua stands before it, as admit(KEYS, ARGV): a task is
-- released by being admitted.
--
-- KEYS  1 state  2 lot  3 lanes  4 flows  5 out  6 groups  7 beside, then for each group its ready
--       and its blocked set.
--       Queues, and what limits with per= keep, are named by what the lot says.
-- ARGV  1 room      at most so many tasks
--       2 ahead     µs before its slot at which a task is released
--       3 lease     µs a released task, and a place it holds, is kept without a sign of life
--       4 token     released task n holds its places as "token.n"
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
--       1 for a probe, 2 for one that is late, else 0; value is as in the lot
local call, match, format = redis.call, string.match, string.format
local ceil, max, min = math.ceil, math.max, math.min
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local state, lot, lanes, flows, out = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local room, lease, prefix = ARGV[1] + 0, ARGV[3] + 0, ARGV[5]

local known = call('HMGET', state, 'version', 'lot', 'released', 'since', 'pause', 'breaker', 'adaptive')
local waiting = tonumber(known[2] or 0)
local before = waiting
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
  local group, flow, rest = match(call('HGET', lanes, lane) or '',
    '^([^\31]*)\31([^\31]*)\31[^\31]*\31[^\31]*\31[^\31]*\31[^\31]*(.*)$')
  -- Without its record, which only an eviction can take, a lane is one like any other.
  return group or '?', flow or '?', rest or ''
end
local function buckets_of(fact, lane)
  if not fact.buckets then
    local _, _, rest = record_of(lane)
    fact.buckets = {}
    for bucket in string.gmatch(rest, '[^\31]+') do
      fact.buckets[#fact.buckets + 1] = bucket
    end
  end
  return fact.buckets
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
  local lane = match(call('HGET', lot, entry) or '', '^([^|]+)|')
  if lane then
    waiting = waiting + 1
    if call('LPUSH', prefix .. '@q:' .. lane, entry) == 1 then
      make_ready(prefix .. '@r:' .. record_of(lane), lane)
    end
  end
end

-- For each group what admit is given for a call of its first lane, the lanes whose turn comes next, in
-- order, and what is known of them. Of those only as many are read as can be served or passed.
local window = room + 1
local more = 0
local groups = {}
for k = 8, #KEYS, 2 do
  local limits, args, names = {}, {}, {state}
  local g = {ready = KEYS[k], blocked = KEYS[k + 1], limits = limits, args = args, names = names,
    facts = {}, gone = {}, costs = false, leases = false, plain = 0}
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
  local p, n = said and 17 or 9, 2
  args[2], args[3], args[4], args[5], args[6], args[7], args[8] =
    ARGV[6], 0, ARGV[2], 'whole', -ARGV[2], g.plain, p
  if said then
    args[9], args[10], args[11], args[12], args[13], args[14], args[15], args[16] =
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
        limit.field = 'b:' .. limit.bucket
        fields[#fields + 1] = limit.field
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

local function write_turns(g)
  if g.gone[1] then call('ZREM', g.ready, unpack(g.gone)) end
  local put = {}
  for lane, fact in pairs(g.facts) do
    if fact.tag then
      put[#put + 1] = fact.tag
      put[#put + 1] = lane
      fact.tag = false
    end
  end
  if put[1] then call('ZADD', g.ready, unpack(put)) end
  g.gone = {}
end

local function read_turns(g)
  write_turns(g)
  local found = call('ZRANGE', g.ready, 0, window - 1, 'WITHSCORES')
  g.lanes, g.tags, g.head = {}, {}, 1
  for i = 1, #found, 2 do
    g.lanes[#g.lanes + 1] = found[i]
    g.tags[#g.tags + 1] = found[i + 1] + 0
  end
  g.whole = #g.lanes < window
  g.edge_tag, g.edge = g.tags[#g.tags], g.lanes[#g.lanes]
end

local function come_later(g, lane, fact, tag)
  fact.tag = tag
  if not g.whole and (tag > g.edge_tag or (tag == g.edge_tag and lane > g.edge)) then return end
  local low, high = g.head, #g.lanes + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = g.tags[middle]
    if other < tag or (other == tag and g.lanes[middle] < lane) then low = middle + 1 else high = middle end
  end
  table.insert(g.lanes, low, lane)
  table.insert(g.tags, low, tag)
end

local reply = {now, 0, 0, 0, 0}
local released, held, late = 0, {}, 0
local next_at = nil
local function wait_until(moment)
  if not next_at or moment < next_at then next_at = moment end
end
local successes, passed = ARGV[7], 0
local failure, aside = nil, 0

-- Takes the first entries of the lanes whose turn comes next out of their queues, and reads them and
-- the tags of their flows. A command for each lane is most of what a lane costs, so it has this one
-- only. As many lanes are read as had their turn so far, and one more, so that not much is read for
-- nothing; and no more than 16, because a long answer is slow to take in. What does not go is put back
-- at the end. The names in a fact are of the entries taken out, the lane's first is the last of them.
local at_once, none = 16, {}
local function read_ahead(g)
  local left = #g.lanes - g.head + 1
  local share = max(1, min(at_once, ceil((room - released) / left)))
  local read, entries = {}, {}
  for i = g.head, g.head + min(released + passed, room - released, left - 1, at_once - 1) do
    local lane = g.lanes[i]
    local fact = g.facts[lane]
    if not fact then
      fact = {names = none, value = false, costs = '', deadline = 0, flow = '', weight = 1, tag = false}
      g.facts[lane] = fact
    end
    if not fact.value then
      local names = fact.names
      if not names[1] then
        local queue = prefix .. '@q:' .. lane
        if share == 1 then
          names = {call('LPOP', queue) or nil}
        else
          names = call('LPOP', queue, share) or none
        end
        for e = 1, #names / 2 do
          names[e], names[#names + 1 - e] = names[#names + 1 - e], names[e]
        end
        fact.names = names
      end
      if names[1] then
        read[#read + 1] = fact
        entries[#entries + 1] = names[#names]
      end
    end
  end
  if not read[1] then return end
  local unknown = {}
  for i, value in ipairs(call('HMGET', lot, unpack(entries))) do
    local fact = read[i]
    fact.value = value or '|1|1|0|?|1\n'
    local costs, deadline, flow, weight = match(fact.value, '^[^|]*|([^|]*)|(%d+)|%d+|([^|]*)|(%d+)')
    fact.costs, fact.deadline, fact.flow, fact.weight = costs, deadline + 0, flow, weight
    if not tags[flow] then
      tags[flow] = 0
      unknown[#unknown + 1] = flow
    end
  end
  if not unknown[1] then return end
  for i, tag in ipairs(call('HMGET', flows, unpack(unknown))) do
    if tag then tags[unknown[i]] = tag + 0 end
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
        limit.interval = interval
        limit.capacity_now = limit.capacity > interval and limit.capacity or interval
        g.args[p + 1], g.args[p + 2] = interval, limit.capacity_now
      elseif limit.kind == 'w' then
        g.args[p + 1] = cost
        g.args[p + 5] = ceil(limit.span * cost / (limit.entries * limit.group))
      elseif limit.kind == 'q' then
        g.args[p + 1] = cost
      end
    end
  end
end

-- What admit would decide for a group whose limits are all leaky buckets of the upstream's hash,
-- while the upstream is not paused, its breaker has seen nothing and its whole rate is in force. The
-- meters are read and written once.
local quiet = known[4] and not (known[5] and known[5] + 0 > now)
  and not (ARGV[8] ~= '' and known[6]) and not (ARGV[9] ~= '' and known[7])
local since = min(tonumber(known[4] or 0), now)
local meters, poured = {}, {}
local function write_meters()
  if next(poured) then
    local put = {}
    for field in pairs(poured) do
      put[#put + 1] = field
      put[#put + 1] = meters[field]
    end
    call('HSET', state, unpack(put))
  end
  meters, poured = {}, {}
end
local function admit_plainly(g)
  local until_, binding = now, 0
  for i, limit in ipairs(g.limits) do
    local field = limit.field
    local tat = meters[field]
    if not tat then
      local value = call('HGET', state, field)
      tat = tonumber(value or since + limit.capacity_now)
      if not tat then
        -- Somebody stands in its line.
        g.plain = 0
        return nil
      end
      if value then meters[field] = tat end
    end
    local slot = tat + limit.interval - limit.capacity_now
    if slot > until_ then until_, binding = slot, i end
  end
  if until_ - now > ARGV[2] + 0 then return {6, now, until_, binding, 0} end
  for _, limit in ipairs(g.limits) do
    local field = limit.field
    local tat = meters[field] or since + limit.capacity_now
    meters[field] = (tat > until_ and tat or until_) + limit.interval
    poured[field] = true
  end
  return until_
end

for _, g in ipairs(groups) do read_turns(g) end
while true do
  local g, tag, lane
  for i = #groups, 1, -1 do
    local one = groups[i]
    if not one.lanes[one.head] and not one.whole then read_turns(one) end
    local name, its = one.lanes[one.head], one.tags[one.head]
    if name and not one.stopped and (not g or its < tag or (its == tag and name < lane)) then
      g, tag, lane = one, its, name
    end
  end
  if not g then break end
  local fact = g.facts[lane]
  if not (fact and fact.value) then
    read_ahead(g)
    fact = g.facts[lane]
  end
  local entry = fact.names[#fact.names]
  local flow_tag = entry and tags[fact.flow]
  if not entry then
    -- Its last has just gone; or its queue is gone, which only an eviction can do.
    g.head = g.head + 1
    g.gone[#g.gone + 1] = lane
  elseif flow_tag > tag then
    g.head = g.head + 1
    come_later(g, lane, fact, flow_tag)
  elseif released >= room or passed >= ARGV[11] + 0 then
    more = 1
    break
  else
    local costs, deadline = fact.costs, fact.deadline
    local slot, n, number, woken, not_before = nil, 0, 0, false, 0
    if deadline > 0 and deadline <= now then
      slot, n = now, 2
      late = late + 1
    else
      local args = g.args
      if costs ~= g.costs then price(g, costs) end
      if any_paused then
        for _, bucket in ipairs(buckets_of(fact, lane)) do
          not_before = max(not_before, paused[bucket] or 0)
        end
      end
      local answer = quiet and g.plain > 0 and not_before == 0 and admit_plainly(g)
      if not answer then
        write_meters()
        for i, limit in ipairs(g.limits) do
          if limit.per then
            local name = prefix .. buckets_of(fact, lane)[i]
            g.names[limit.key] = name
            if limit.kind == 'w' then g.names[limit.key + 1] = name .. ':line' end
          end
        end
        if g.said then
          args[7] = not_before > 0 and 0 or g.plain
          args[9], args[13] = not_before, successes
          successes = '0'
        end
        if g.leases then args[10] = ARGV[4] .. '.' .. released end
        local decided
        decided, answer = pcall(admit, g.names, args)
        if not decided then
          local text = type(answer) == 'table' and answer.err or tostring(answer)
          local own = false
          if string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'attempt to', 1, true) then
            for _, limit in ipairs(g.limits) do own = own or limit.per end
          end
          if not own then
            -- Raised here, it would lose what was taken out of queues.
            failure = answer
            break
          end
          -- What is kept for this lane alone may be at fault: the others go on.
          answer, aside = nil, 2
          passed = passed + 1
          g.head = g.head + 1
          g.gone[#g.gone + 1] = lane
          fact.tag = false
          call('ZADD', g.blocked, now + 1000000, lane)
        end
      end
      if not answer then
        slot = nil
      elseif type(answer) == 'number' then
        slot = answer
      else
        local status = answer[1] % 10
        if status < 2 then
          slot = answer[3]
          if status == 0 then n = answer[4] end
        else
          slot, number = nil, answer[4]
          woken = status == 4 and answer[5] == 1
          local moment = woken and now + lease or answer[3]
          if deadline > 0 and deadline < moment then moment = deadline end
          passed = passed + 1
          if number > 0 and g.limits[number].per or number == 0 and answer[3] == not_before then
            g.head = g.head + 1
            g.gone[#g.gone + 1] = lane
            fact.tag = false
            call('ZADD', g.blocked, moment, lane)
            if woken then
              local stuck = prefix .. '@s:' .. buckets_of(fact, lane)[number]
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
    if slot then
      released = released + 1
      local r = #reply
      reply[r + 1], reply[r + 2], reply[r + 3], reply[r + 4] = entry, slot, n, fact.value
      held[#held + 1] = now + lease
      held[#held + 1] = entry
      if n ~= 2 then
        if tag > virtual then virtual = tag end
        flow_tag = tag + ceil(g.most * ARGV[15] / fact.weight)
        tags[fact.flow] = flow_tag
        moved[fact.flow] = true
      end
      fact.names[#fact.names], fact.value = nil, false
      g.head = g.head + 1
      come_later(g, lane, fact, max(tag, flow_tag))
    end
  end
end

write_meters()
for _, g in ipairs(groups) do
  local drained, queues = {}, {}
  for lane, fact in pairs(g.facts) do
    local queue = prefix .. '@q:' .. lane
    if fact.names[1] then
      call('LPUSH', queue, unpack(fact.names))
    else
      drained[#drained + 1] = lane
      queues[#queues + 1] = queue
    end
  end
  if queues[1] and call('EXISTS', unpack(queues)) < #queues then
    for i, lane in ipairs(drained) do
      if call('EXISTS', queues[i]) == 0 then
        g.gone[#g.gone + 1] = lane
        g.facts[lane].tag = false
      end
    end
  end
  write_turns(g)
  local blocked = call('ZRANGE', g.blocked, 0, 0, 'WITHSCORES')
  if blocked[2] then wait_until(blocked[2] + 0) end
end
if held[1] then call('ZADD', out, unpack(held)) end
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
