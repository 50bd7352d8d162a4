-- One change a person makes, with its record.
--
-- KEYS  1        the upstream's state: a hash of pause, version, …
--       2        the changes in force: a hash
--       3        the record of changes: a stream
-- ARGV  1 what   "pause" | "resume" | "set" | "reset"
--       2 target a limit's key, "pause:" and a bucket's name, or "" for the whole upstream
--       3 value  the numbers set; the instant a pause ends, µs; the share of its rates that a resumed
--                upstream begins with, in 1,024ths, or ""
--       4 by     who
--       5 why    the reason
--       6 channel where those who wait are told
--       7 kept   how many records are kept, about
-- Reply {version, field, value, …}: the changes in force
local what, target = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('HSETNX', KEYS[1], 'since', now)
if target == '' then
  if what == 'pause' then
    redis.call('HSET', KEYS[1], 'pause', ARGV[3])
  elseif what == 'resume' then
    redis.call('HDEL', KEYS[1], 'pause')
    if ARGV[3] ~= '' then
      redis.call('HSET', KEYS[1], 'adaptive', string.format('%d|%.0f|%.0f|0', ARGV[3], now, now))
    end
  else
    redis.call('DEL', KEYS[2])
    redis.call('HDEL', KEYS[1], 'breaker', 'adaptive')
  end
elseif what == 'set' or what == 'pause' then
  redis.call('HSET', KEYS[2], target, ARGV[3])
else
  redis.call('HDEL', KEYS[2], target)
end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', 'at', time[1] .. string.format('%06d', time[2]),
  'what', what, 'target', target, 'value', ARGV[3], 'by', ARGV[4], 'why', ARGV[5])
redis.call('PUBLISH', ARGV[6], 'change')
local reply = redis.call('HGETALL', KEYS[2])
table.insert(reply, 1, tostring(version))
return reply
