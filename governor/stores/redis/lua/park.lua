-- Parks tasks. Repeats Lot.park in governor/policy/parking_lot.py.
--
-- The parking lot of an upstream is made of
--   lot     a hash: entry -> "lane|costs|deadline|since|flow|weight|message\n" and what is parked
--   lanes   a hash: lane -> "group|flow|rank|weight|tenant|origin|bucket|bucket|..", by 0x1f
--   groups  a hash: group -> origin, the queue
--   flows   a hash: flow -> its finish tag; "-" is the virtual time
--   out     a sorted set: entry that is released -> µs until which whoever released it is believed
--   ready, blocked   for each group, sorted sets: lane -> start tag, and lane -> µs
--   queue   for each lane, a list of entries
--   beside  a sorted set, by name: entries that are "task id:message", because when they came another
--           message was there under the task id, which alone names all others
-- and of "lot" in the upstream's state: how many wait.
--
-- KEYS  1 state  2 lot  3 lanes  4 flows  5 out  6 groups  7 beside, then for each arrival the ready
--       set of its group and the queue of its lane
-- ARGV  1 channel   where workers are told that tasks wait
--       then for each arrival: task id, lane, record of the lane, "flow|weight", costs ("1,1"), patience
--       (µs: the instant after which it does not wait, or minus the longest wait, or 0), µs until it
--       expires or 0, front (0 | 1), again (0 | 1), message (what tells it from others of its task
--       id), what is parked
-- Reply {now, waiting, fresh, kept..}
local before = tonumber(call('HGET', KEYS[1], 'lot') or 0)
local waiting, fresh = before, 0
local kept = {now, 0, 0}
local others = call('EXISTS', KEYS[7]) == 1
local k = 8
for a = 2, #ARGV, 11 do
  local task_id, lane, turns, message = ARGV[a], ARGV[a + 1], ARGV[a + 3], ARGV[a + 9]
  local entry, known = task_id, call('HEXISTS', KEYS[2], task_id) == 1
  if known or others then
    local beside = task_id .. ':' .. message
    if others and call('HEXISTS', KEYS[2], beside) == 1 then
      entry, known = beside, true
    elseif known then
      local first = select(7, entry_of(call('HGET', KEYS[2], task_id)))
      if first ~= message then entry, known = beside, false end
    end
  end
  local here = 1
  if known then here = ARGV[a + 8] == '1' and call('ZREM', KEYS[5], entry) or 0 end
  kept[#kept + 1] = here
  if here == 1 then
    if entry ~= task_id then
      call('ZADD', KEYS[7], 0, entry)
      others = true
    end
    local deadline, expires = ARGV[a + 5] + 0, ARGV[a + 6] + 0
    if deadline < 0 then deadline = now - deadline end
    if expires > 0 and (deadline == 0 or now + expires < deadline) then deadline = now + expires end
    call('HSET', KEYS[2], entry,
      format('%s|%s|%.0f|%.0f|%s|%s\n', lane, ARGV[a + 4], deadline, now, turns, message) .. ARGV[a + 10])
    local length = call(ARGV[a + 7] == '1' and 'LPUSH' or 'RPUSH', KEYS[k + 1], entry)
    waiting = waiting + 1
    if length == 1 then
      fresh = 1
      local group, flow, origin = lane_of(ARGV[a + 2])
      call('HSET', KEYS[3], lane, ARGV[a + 2])
      call('HSET', KEYS[6], group, origin)
      call('ZADD', KEYS[k], start_tag(flow), lane)
    end
  end
  k = k + 2
end
if waiting > before then call('HSET', KEYS[1], 'lot', waiting) end
if before == 0 and waiting > 0 then call('PUBLISH', ARGV[1], 'lot') end
kept[2], kept[3] = waiting, fresh
return kept
