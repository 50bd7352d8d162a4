-- Does something to tasks in the parking lot. Repeats Lot.steer in governor/policy/parking_lot.py; what the
-- lot is made of is told in park.lua.
--
-- KEYS  1 state  2 lot  3 lanes  4 flows  5 out  6 groups  7 beside  8 the record of what people did, a
--       stream, then for a move the ready set and the queue it goes to. The sets and queues that entries are
--       in now are named by what the lot says.
-- ARGV  1 what      "back" | "left" | "cancel" | "revoke" | "front" | "move"
--       2 prefix    of the names of queues   3 of ready sets   4 of blocked sets
--       5, 6, 7     lane, record and "flow|weight" that a move goes to
--       8 channel   where workers are told that tasks wait
--       9 by   10 why   who does it, and the reason; "" when no person does
--      11 kept      how many records are kept, about
--       then the entries, or for "revoke" task ids
-- Reply the messages of those it was done to
local what = ARGV[1]
local released = what == 'back' or what == 'left'
local waiting = tonumber(call('HGET', KEYS[1], 'lot') or 0)
local change = 0
local done = {}

local function join(entry, lane, record, ready, queue)
  local length = call(what == 'move' and 'RPUSH' or 'LPUSH', queue, entry)
  change = change + 1
  if length == 1 then
    call('HSET', KEYS[3], lane, record)
    local _, flow = lane_of(record)
    call('ZADD', ready, start_tag(flow), lane)
  end
end

local wanted, entries = {}, {}
for a = 12, #ARGV do
  wanted[#wanted + 1] = ARGV[a]
  if what == 'revoke' then
    for _, entry in ipairs(call('ZRANGEBYLEX', KEYS[7], '[' .. ARGV[a] .. ':', '(' .. ARGV[a] .. ';')) do
      if match(entry, '^(.*):[^:]*$') == ARGV[a] then wanted[#wanted + 1] = entry end
    end
  end
end
if what == 'revoke' then what = 'cancel' end
for _, entry in ipairs(wanted) do
  local value = call('HGET', KEYS[2], entry)
  if value and (call('ZSCORE', KEYS[5], entry) and true or false) == released then
    local lane, costs, deadline, since, _, _, message = entry_of(value)
    local payload = match(value, '\n(.*)$')
    done[#done + 1] = payload
    entries[#entries + 1] = entry
    local queue = ARGV[2] .. lane
    local record = call('HGET', KEYS[3], lane)
    if released then
      call('ZREM', KEYS[5], entry)
    else
      call('LREM', queue, 1, entry)
      change = change - 1
      if call('EXISTS', queue) == 0 then
        local group = lane_of(record)
        call('ZREM', ARGV[3] .. group, lane)
        call('ZREM', ARGV[4] .. group, lane)
      end
    end
    if what == 'left' or what == 'cancel' then
      call('HDEL', KEYS[2], entry)
      if string.find(entry, ':', 1, true) then call('ZREM', KEYS[7], entry) end
    elseif what == 'move' then
      call('HSET', KEYS[2], entry,
        format('%s|%s|%.0f|%s|%s|%s\n', ARGV[5], costs, deadline, since, ARGV[7], message) .. payload)
      join(entry, ARGV[5], ARGV[6], KEYS[9], KEYS[10])
    else
      join(entry, lane, record, ARGV[3] .. lane_of(record), queue)
    end
  end
end
if change ~= 0 then
  if waiting + change > 0 then
    call('HSET', KEYS[1], 'lot', waiting + change)
  else
    call('HDEL', KEYS[1], 'lot')
  end
end
if done[1] and ARGV[10] ~= '' then
  call('XADD', KEYS[8], 'MAXLEN', '~', ARGV[11], '*', 'at', time[1] .. format('%06d', time[2]),
    'what', what, 'target', table.concat(entries, ' '), 'value', ARGV[5], 'by', ARGV[9], 'why', ARGV[10])
end
if done[1] and (ARGV[10] ~= '' or (waiting == 0 and change > 0)) then
  call('PUBLISH', ARGV[8], 'lot')
end
if waiting + change == 0 then
  call('DEL', KEYS[4])
  if call('EXISTS', KEYS[5]) == 0 then call('DEL', KEYS[3], KEYS[6]) end
end
return done
