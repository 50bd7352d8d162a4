-- One settlement: what an execution leaves behind. Repeats MemoryStore.settle.
--
-- KEYS  1          the upstream's state: a hash of since, pause
--       2          the claim, only when a token is given
-- ARGV  1 token    the delivery that holds the claim, or ""
--       2 action   "finish" | "release" | "renew", or ""
--       3 lease    µs a renewed claim counts as alive
--       4 keep     ms a claim is kept
--       5 pause    µs from now during which the upstream is not called; 0 leaves it
-- Reply {now, pause}: µs on this server's clock; pause is 0 when never paused
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('HSETNX', KEYS[1], 'since', string.format('%.0f', now))

local token = ARGV[1]
if token ~= '' then
  local claim = redis.call('GET', KEYS[2])
  if claim and string.match(claim, '^(.*)|%d+$') == token then
    if ARGV[2] == 'finish' then
      redis.call('SET', KEYS[2], 'd', 'PX', ARGV[4])
    elseif ARGV[2] == 'release' then
      redis.call('DEL', KEYS[2])
    else
      redis.call('SET', KEYS[2], string.format('%s|%.0f', token, now + tonumber(ARGV[3])), 'PX', ARGV[4])
    end
  end
end

local pause = tonumber(redis.call('HGET', KEYS[1], 'pause')) or 0
local wanted = tonumber(ARGV[5])
if wanted > 0 and now + wanted > pause then
  pause = now + wanted
  redis.call('HSET', KEYS[1], 'pause', string.format('%.0f', pause))
end
return {now, pause}
