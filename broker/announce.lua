-- Keeps what a process tells of itself, and in the index when that was.
--
-- The clock is that of Redis: a process whose own is wrong neither falls out of the
-- index nor throws others out. A key of another type is nobody's and is replaced.
--
-- KEYS   1 index of processes, 2 announcement
-- ARGV   1 id of the process, 2 its announcement, 3 milliseconds for which both stay
-- Reply  'OK'
-- Cost   O(log n) of n processes
local index, announcement = KEYS[1], KEYS[2]
local id, text, stays = ARGV[1], ARGV[2], tonumber(ARGV[3])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local kind = redis.call('TYPE', index).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', index) end

-- First, because Redis refuses it when its memory is full; what is refused after it, for
-- want of a right, must not leave an index that stays for good.
redis.call('ZADD', index, string.format('%.0f', now), id)
local refused
local function call(...)
  local reply = not refused and redis.pcall(...)
  if type(reply) == 'table' and reply.err then refused = reply end
end
call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', now - stays))
-- What is from a future that a clock set back has taken back would stay for too long.
call('ZREMRANGEBYSCORE', index, string.format('(%.0f', now + stays), '+inf')
call('PEXPIRE', index, ARGV[3])
call('SET', announcement, text, 'PX', ARGV[3])
if refused then
  redis.call('ZREM', index, id)
  return refused
end
return redis.status_reply('OK')
