-- Publishes a batch of events and moves the position, or does nothing.
--
-- KEYS   1 position, 2 heads, 3 sizes, 4… log of each stream of the batch
-- ARGV   1 epoch, 2 token and 3 run id that are expected
--        4 new token, 5 new state of the position
--        6 most events and 7 most bytes of a log, 8 its time to live in seconds
--        9 prefix of event channels, 10 channel of heads
--        11 '1' when an event of the batch is about a stream itself, else '0'
--        12 number of streams n, then n stream ids,
--        then for each event: index of its stream, head, tail
-- Reply  {'ok'} | {'conflict'} | {'damaged', why}
-- Cost   one XADD and one PUBLISH an event; a log that outgrows its bytes is
--        read once and cut to half of them.
local position, heads, sizes = KEYS[1], KEYS[2], KEYS[3]
local epoch, token, run = ARGV[1], ARGV[2], ARGV[3]
local next_token, state = ARGV[4], ARGV[5]
local max_events, max_bytes, ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local event_prefix, heads_channel = ARGV[9], ARGV[10]
local listing = ARGV[11] == '1'
local n = tonumber(ARGV[12])
local first = 12 + n + 1

local function type_of(key) return redis.call('TYPE', key).ok end

-- The offset above which XADD takes an entry. It outlives the entry itself.
local function last_id(log)
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end

if type_of(position) ~= 'hash' then return {'conflict'} end
local there = redis.call('HMGET', position, 'epoch', 'token', 'run', 'published')
if there[1] ~= epoch or there[2] ~= token or there[3] ~= run then return {'conflict'} end

local published = tonumber(there[4]) or 0
local heads_type, sizes_type = type_of(heads), type_of(sizes)
if heads_type ~= 'hash' and (heads_type ~= 'none' or published > 0) then return {'damaged', 'heads are ' .. heads_type} end
if sizes_type ~= 'hash' and sizes_type ~= 'none' then return {'damaged', 'sizes are ' .. sizes_type} end

local list = tonumber(redis.call('HGET', heads, '') or 0)
if not list then return {'damaged', 'head of the list is no number'} end

local offset, size = {}, {}
for i = 1, n do
  offset[i] = tonumber(redis.call('HGET', heads, ARGV[12 + i]) or 0)
  size[i] = tonumber(redis.call('HGET', sizes, ARGV[12 + i]) or 0)
  if not offset[i] or not size[i] then return {'damaged', 'head is no number'} end
  local log_type = type_of(KEYS[3 + i])
  if log_type == 'stream' then
    if last_id(KEYS[3 + i]) > offset[i] then return {'damaged', 'log is ahead of its head'} end
  elseif log_type ~= 'none' then
    return {'damaged', 'log is a ' .. log_type}
  end
end

for i = first, #ARGV, 3 do
  local s = tonumber(ARGV[i])
  offset[s] = offset[s] + 1
  local place = string.format('%.0f', offset[s])
  local id = epoch .. '-' .. place
  local message = id .. ARGV[i + 1] .. id .. ARGV[i + 2]
  redis.call('XADD', KEYS[3 + s], 'MAXLEN', max_events, place .. '-0', 'm', message)
  redis.call('PUBLISH', event_prefix .. ARGV[12 + s], message)
  size[s] = size[s] + #message
end

local moved = {}
for i = 1, n do
  local log = KEYS[3 + i]
  if size[i] > max_bytes then
    -- The bound counts what was cut by MAXLEN too: see what is really there.
    local kept, cut = 0, nil
    for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-')) do
      kept = kept + #entry[2][2]
      if kept > max_bytes / 2 and cut == nil and entry[1] ~= string.format('%.0f-0', offset[i]) then
        cut = entry[1]
        size[i] = kept - #entry[2][2]
      end
    end
    if cut then
      redis.call('XTRIM', log, 'MINID', string.format('%.0f-0', tonumber(string.match(cut, '^%d+')) + 1))
    else
      size[i] = kept
    end
  end
  redis.call('EXPIRE', log, ttl)
  local head = string.format('%.0f', offset[i])
  redis.call('HSET', heads, ARGV[12 + i], head)
  redis.call('HSET', sizes, ARGV[12 + i], string.format('%.0f', size[i]))
  moved[ARGV[12 + i]] = offset[i]
end

if listing then
  -- The head of the list of streams stands where no stream's can: ids are not empty.
  moved[''] = list + 1
  redis.call('HSET', heads, '', string.format('%.0f', list + 1))
end

redis.call('HSET', position, 'token', next_token, 'state', state,
  'published', string.format('%.0f', published + (#ARGV - first + 1) / 3))
-- Also of a batch without events: tokens without a gap tell that no message was missed.
redis.call('PUBLISH', heads_channel, cjson.encode({epoch = epoch, token = next_token, heads = n > 0 and moved or nil}))
return {'ok'}
