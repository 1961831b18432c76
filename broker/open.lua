-- Opens an epoch, or does nothing when another listener has moved the position, or
-- when it belongs to another deployment.
-- A position of which a part is missing or unreadable counts as none.
--
-- KEYS   1 position, 2 listeners, 3 heads and 4 sizes of the epoch that ends, 5 heads of the new one
-- ARGV   1 epoch and 2 token that are expected ('' for none)
--        3 new epoch, 4 its token, 5 run id, 6 state of the position
--        7 seconds that heads of the old epoch stay, 8 control channel, 9 announcement
--        10 id, 11 name and 12 origin of the deployment, 13 id of this listener,
--        14 milliseconds for which a listener of another origin keeps the position
-- Reply  {'ok'} | {'conflict'} | {'foreign', id, name, origin, listener or ''}
--        | {'failed', command, error}: nothing was written
local position, listeners = KEYS[1], KEYS[2]
local kind = redis.call('TYPE', position).ok
local epoch, token = '', ''
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if kind == 'hash' then
  local there = redis.call('HMGET', position, 'epoch', 'token', 'run', 'state', 'deployment', 'name', 'origin')
  local whole = string.match(there[2] or '', '^%d+$') and #there[2] <= 16
  for i = 1, 7 do whole = whole and there[i] end
  if whole then
    epoch, token = there[1], there[2]
    if there[5] ~= ARGV[10] then return {'foreign', there[5], there[6], there[7], ''} end
    if there[7] ~= ARGV[12] and redis.call('TYPE', listeners).ok == 'hash' then
      local all = redis.call('HGETALL', listeners)
      for i = 1, #all, 2 do
        local ms, origin = string.match(all[i + 1], '^(%d+) (.*)$')
        if all[i] ~= ARGV[13] and origin == there[7] and now - tonumber(ms) < tonumber(ARGV[14]) then
          return {'foreign', there[5], there[6], there[7], all[i]}
        end
      end
    end
  end
end
if epoch ~= ARGV[1] or token ~= ARGV[2] then return {'conflict'} end

-- A command that the user may not run is refused here and not half-way: keys of the old
-- epoch that do not expire would stay for good, and a position must not be lost.
local function refused(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return {'failed', select(1, ...), reply.err} end
end
local failed = refused('EXPIRE', KEYS[5], ARGV[7]) -- it is not there yet
if not failed and kind ~= 'hash' and kind ~= 'none' then failed = refused('DEL', position) end
-- When, by the clock of Redis, is for operators only.
failed = failed or refused('HSET', position, 'epoch', ARGV[3], 'token', ARGV[4], 'run', ARGV[5], 'published', '0',
  'opened', clock[1], 'state', ARGV[6], 'deployment', ARGV[10], 'name', ARGV[11], 'origin', ARGV[12])
if failed then return failed end
for i = 3, 4 do redis.call('EXPIRE', KEYS[i], ARGV[7]) end
-- Who misses it finds the epoch with the next heartbeat.
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return {'ok'}
