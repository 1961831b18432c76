-- Keeps that a listener was heard, and which Postgres it has: see open.lua. Fields of
-- listeners that have not been heard for a while go.
--
-- KEYS   1 listeners
-- ARGV   1 id of the listener, 2 origin and 3 server of its Postgres, 4 milliseconds for which a field stays
-- Reply  {milliseconds since 1970, then id and stamp of each listener as they were}
local listeners, stays = KEYS[1], tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local stamp = string.format('%.0f', now)
local kind = redis.call('TYPE', listeners).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', listeners) end

-- First what reads, and what lets it expire: refused, nothing is written that would stay for
-- good. A Redis that is out of memory looks at the first write of a script alone, and PEXPIRE
-- takes none: stamps do not get old there.
local all = redis.call('HGETALL', listeners)
redis.call('PEXPIRE', listeners, ARGV[4])
for i = 1, #all, 2 do
  local ms = tonumber(string.match(all[i + 1], '^(%d+) ') or '0')
  if now - ms > stays or ms - now > stays then redis.call('HDEL', listeners, all[i]) end
end
redis.call('HSET', listeners, ARGV[1], stamp .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', listeners, ARGV[4])
return {stamp, unpack(all)}
