-- What the scripts of the parking lot begin with: the instant, and how lanes and entries are kept (park.lua).
local call, match, format = redis.call, string.match, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

-- A lane's group, flow, origin and buckets.
local function lane_of(record)
  local group, flow, origin, rest =
    match(record, '^([^\31]*)\31([^\31]*)\31[^\31]*\31[^\31]*\31[^\31]*\31([^\31]*)(.*)$')
  local buckets = {}
  for bucket in string.gmatch(rest, '[^\31]+') do buckets[#buckets + 1] = bucket end
  return group, flow, origin, buckets
end

-- An entry's lane, costs, deadline, instant of its parking, flow, weight and message.
local function entry_of(value)
  local lane, costs, deadline, since, flow, weight, message =
    match(value, '^([^|\n]*)|([^|\n]*)|(%d+)|(%d+)|([^|\n]*)|(%d+)|([^\n]*)\n')
  return lane, costs, tonumber(deadline), since, flow, weight, message
end

-- The turn of a lane that begins to wait: never before its flow's last, nor before those that have gone.
local function start_tag(flow)
  local tags = call('HMGET', KEYS[4], '-', flow)
  return math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))
end
