-- Takes out of lanes, by group, the tasks whose time is over. Repeats Lot.overdue in
-- governor/policy/parking_lot.py; what the lot is made of is told in park.lua.
--
-- KEYS  1 state  2 lot  3 lanes  4 flows  5 out  6 groups  7 beside, then for each group its ready and
--       its blocked set. Queues are named by what those say.
-- ARGV  1 prefix   of the names of queues
--       2 lease    µs a task is kept for the asker without a sign of life
--       3 at       so many lanes are passed over: they were looked at before
--       4, 5       most lanes looked at, most tasks taken out
-- Reply {now, next, more, waiting}, then for each task taken out entry, value as in the lot
local at, lanes_left, room = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
local next_at, more, taken = 0, 0, 0
local reply = {now, 0, 0, 0}
for k = 8, #KEYS do
  local size = call('ZCARD', KEYS[k])
  if at >= size then
    at = at - size
  elseif lanes_left > 0 then
    local found = call('ZRANGE', KEYS[k], at, at + lanes_left - 1)
    if at + #found < size then more = 1 end
    at, lanes_left = 0, lanes_left - #found
    for _, lane in ipairs(found) do
      local queue = ARGV[1] .. lane
      while true do
        local entry = call('LINDEX', queue, 0)
        if not entry then
          call('ZREM', KEYS[k], lane)
          break
        end
        local value = call('HGET', KEYS[2], entry)
        local _, _, deadline = entry_of(value or '')
        if (deadline or 0) == 0 then break end
        if deadline > now then
          if next_at == 0 or deadline < next_at then next_at = deadline end
          break
        end
        if taken >= room then
          more = 1
          break
        end
        call('LPOP', queue)
        call('ZADD', KEYS[5], now + ARGV[2], entry)
        taken = taken + 1
        reply[#reply + 1] = entry
        reply[#reply + 1] = value
      end
    end
  else
    more = 1
  end
end
local waiting = tonumber(call('HGET', KEYS[1], 'lot') or 0) - taken
if taken > 0 then
  if waiting > 0 then
    call('HSET', KEYS[1], 'lot', waiting)
  else
    call('HDEL', KEYS[1], 'lot')
    call('DEL', KEYS[4])
  end
end
reply[2], reply[3], reply[4] = next_at, more, waiting
return reply
