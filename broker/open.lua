-- Opens an epoch, or does nothing when another listener has moved the position, or
-- when it belongs to another deployment, or to a Postgres that a listener has.
-- A position of which a part is missing or unreadable counts as none.
--
-- KEYS   1 position, 2 listeners, 3 heads and 4 sizes of the epoch that ends, 5 heads of the new one
-- ARGV   1 epoch and 2 token that are expected ('' for none)
--        3 new epoch, 4 its token, 5 run id, 6 state of the position
--        7 seconds that heads of the old epoch stay, 8 control channel, 9 announcement
--        10 id, 11 name, 12 origin and 13 server of the deployment, 14 id of this listener or '',
--        15 milliseconds for which a listener of another Postgres keeps the position
--        16 milliseconds for which a listener's stamp stays
-- Reply  {'ok'} | {'conflict'} | {'foreign', id, name, origin, server, listener or ''}
--        | {'failed', command, error}: nothing was written
local position, listeners = KEYS[1], KEYS[2]
local kind, stamps = redis.call('TYPE', position).ok, redis.call('TYPE', listeners).ok
local epoch, token = '', ''
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if kind == 'hash' then
  local there = redis.call('HMGET', position, 'epoch', 'token', 'run', 'state', 'deployment', 'name', 'origin', 'server')
  local name, digits = there[1] or '', there[2] or ''
  local whole = #name <= 32 and string.match(name, '^[a-z0-9]+$') -- event.ValidEpoch
    and #digits <= 16 and (digits == '0' or string.match(digits, '^[1-9]%d*$'))
  for i = 1, 7 do whole = whole and there[i] end
  if whole then
    epoch, token = there[1], there[2]
    if there[5] ~= ARGV[10] then return {'foreign', there[5], there[6], there[7], there[8] or '', ''} end
    local server = there[8] or ''
    local copy = there[7] ~= ARGV[12]
    if copy or (server ~= ARGV[13] and server ~= '' and ARGV[13] ~= '') then
      if stamps ~= 'hash' and stamps ~= 'none' then return {'foreign', there[5], there[6], there[7], server, ''} end
      local all = redis.call('HGETALL', listeners)
      for i = 1, #all, 2 do
        local ms, origin, at = string.match(all[i + 1], '^(%d+) (%S*) ?(.*)$')
        if ms and all[i] ~= ARGV[14] and origin == there[7] and (copy or at == server) and now - tonumber(ms) < tonumber(ARGV[15]) then
          return {'foreign', there[5], there[6], there[7], server, all[i]}
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
  'opened', clock[1], 'state', ARGV[6], 'deployment', ARGV[10], 'name', ARGV[11], 'origin', ARGV[12], 'server', ARGV[13])
if failed then return failed end
for i = 3, 4 do redis.call('EXPIRE', KEYS[i], ARGV[7]) end
-- What keeps others off, as heard.lua does from now on.
if ARGV[14] ~= '' and not refused('PEXPIRE', listeners, ARGV[16]) then
  redis.pcall('HSET', listeners, ARGV[14], string.format('%.0f ', now) .. ARGV[12] .. ' ' .. ARGV[13])
  redis.pcall('PEXPIRE', listeners, ARGV[16])
end
-- Who misses it finds the epoch with the next heartbeat.
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return {'ok'}
