-- Opens an epoch, or does nothing when another listener has moved the position.
-- A position of which a part is missing or unreadable counts as none.
--
-- KEYS   1 position, 2 heads, 3 sizes of the epoch that ends
-- ARGV   1 epoch and 2 token that are expected ('' for none)
--        3 new epoch, 4 its token, 5 run id, 6 state of the position
--        7 seconds that heads of the old epoch stay, 8 control channel, 9 announcement
-- Reply  {'ok'} | {'conflict'}
local position = KEYS[1]
local kind = redis.call('TYPE', position).ok
local epoch, token = '', ''
if kind == 'hash' then
  local there = redis.call('HMGET', position, 'epoch', 'token', 'run', 'state')
  if there[1] and there[3] and there[4] and string.match(there[2] or '', '^%d+$') and #there[2] <= 16 then
    epoch, token = there[1], there[2]
  end
end
if epoch ~= ARGV[1] or token ~= ARGV[2] then return {'conflict'} end

-- When, by the clock of Redis, is for operators only.
local opened = redis.call('TIME')[1]
redis.call('DEL', position)
redis.call('HSET', position, 'epoch', ARGV[3], 'token', ARGV[4], 'run', ARGV[5], 'published', '0', 'opened', opened, 'state', ARGV[6])
for i = 2, 3 do redis.call('EXPIRE', KEYS[i], ARGV[7]) end
redis.call('PUBLISH', ARGV[8], ARGV[9])
return {'ok'}
