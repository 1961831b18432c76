-- Publishes a batch of events and moves the position, or does nothing.
--
-- KEYS   1 position, 2 heads, 3 sizes, 4… log of each stream of the batch
-- ARGV   1 epoch, 2 token and 3 run id that are expected
--        4 new token, 5 new state of the position
--        6 most events and 7 most bytes of a log, 8 its time to live in seconds
--        9 prefix of event channels, 10 channel of heads
--        11 '1' when an event of the batch is about a stream itself, else '0'
--        12 server of the listener's Postgres, 13 number of streams n, then n stream ids,
--        then for each event: index of its stream, head, tail
-- Reply  {'ok'} | {'conflict'} | {'damaged', why}
--        | {'failed', command, error}: nothing is published, a write was refused
--        | {'mute', command, error}: all is published, and a message was refused
-- Cost   one XADD and one PUBLISH an event; a log that outgrows its bytes is
--        read once and cut to half of them.
local position, heads, sizes = KEYS[1], KEYS[2], KEYS[3]
local epoch, token, run = ARGV[1], ARGV[2], ARGV[3]
local next_token, state = ARGV[4], ARGV[5]
local max_events, max_bytes, ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local event_prefix, heads_channel = ARGV[9], ARGV[10]
local listing = ARGV[11] == '1'
local n = tonumber(ARGV[13])
local first = 13 + n + 1

local function type_of(key) return redis.call('TYPE', key).ok end

-- Reads a number as this script writes it; a missing one is 0, and nil means damage. Lua also
-- reads 'inf', '1e3' and ' 7' as numbers. Up to 14 digits (maxCountDigits) all is exact,
-- in doubles and in the JSON of cjson.
local function count(text)
  if not text then return 0 end
  if #text <= 14 and (text == '0' or string.match(text, '^[1-9]%d*$')) then return tonumber(text) end
end

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

local published = count(there[4])
if not published then return {'damaged', 'number of published events is no count'} end
local heads_type, sizes_type = type_of(heads), type_of(sizes)
if heads_type ~= 'hash' and (heads_type ~= 'none' or published > 0) then return {'damaged', 'heads are ' .. heads_type} end
if sizes_type ~= 'hash' and sizes_type ~= 'none' then return {'damaged', 'sizes are ' .. sizes_type} end

local list = count(redis.call('HGET', heads, ''))
if not list then return {'damaged', 'head of the list is no count'} end

local offset, size, fresh = {}, {}, {}
for i = 1, n do
  offset[i] = count(redis.call('HGET', heads, ARGV[13 + i]))
  size[i] = count(redis.call('HGET', sizes, ARGV[13 + i]))
  if not offset[i] then return {'damaged', 'head is no count'} end
  if not size[i] then return {'damaged', 'size is no count'} end
  local log_type = type_of(KEYS[3 + i])
  fresh[i] = log_type == 'none'
  if log_type == 'stream' then
    if last_id(KEYS[3 + i]) > offset[i] then return {'damaged', 'log is ahead of its head'} end
  elseif log_type ~= 'none' then
    return {'damaged', 'log is a ' .. log_type}
  end
end

-- A write that is refused takes back those before it: the user may have lost a right
-- since the last batch. (Memory, disk and role are looked at before the first write.)
local refused
local function call(...)
  if refused then return end
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then refused = {'failed', select(1, ...), reply.err} end
  return reply
end

-- First a write that Redis refuses when it is out of memory: it asks that of the first one alone.
call('HSET', position, 'server', ARGV[12])
-- A new log has no time to live yet: what it needs to get one, or to go, is tried on the
-- key that is not there. One that is there lives on before it gets an entry that no head
-- leads to.
for i = 1, n do
  if fresh[i] then call('XADD', KEYS[3 + i], 'NOMKSTREAM', '1-0', 'm', '') end
  call('EXPIRE', KEYS[3 + i], ttl)
  if fresh[i] then call('DEL', KEYS[3 + i]) end
end
if refused then return refused end

local old, appended, messages = {}, {}, {}
for i = 1, n do old[i] = offset[i] end
for i = first, #ARGV, 3 do
  local s = tonumber(ARGV[i])
  offset[s] = offset[s] + 1
  local place = string.format('%.0f', offset[s])
  local id = epoch .. '-' .. place
  local message = id .. ARGV[i + 1] .. id .. ARGV[i + 2]
  call('XADD', KEYS[3 + s], 'MAXLEN', max_events, place .. '-0', 'm', message)
  if refused then break end
  appended[s] = true
  messages[#messages + 1] = message
  size[s] = size[s] + #message
end

local moved = {}
for i = 1, n do
  local log = KEYS[3 + i]
  if fresh[i] then call('EXPIRE', log, ttl) end
  local entries = size[i] > max_bytes and call('XREVRANGE', log, '+', '-')
  if entries and not refused then
    -- The bound counts what was cut by MAXLEN too: see what is really there.
    local kept, cut = 0, nil
    for _, entry in ipairs(entries) do
      kept = kept + #entry[2][2]
      if kept > max_bytes / 2 and cut == nil and entry[1] ~= string.format('%.0f-0', offset[i]) then
        cut = entry[1]
        size[i] = kept - #entry[2][2]
      end
    end
    if cut then
      call('XTRIM', log, 'MINID', string.format('%.0f-0', tonumber(string.match(cut, '^%d+')) + 1))
    else
      size[i] = kept
    end
  end
  moved[ARGV[13 + i]] = offset[i]
end
-- The head of the list of streams stands where no stream's can: ids are not empty.
if listing then moved[''] = list + 1 end
local new_heads, new_sizes = {}, {}
for stream, head in pairs(moved) do
  new_heads[#new_heads + 1] = stream
  new_heads[#new_heads + 1] = string.format('%.0f', head)
end
for i = 1, n do
  new_sizes[2 * i - 1], new_sizes[2 * i] = ARGV[13 + i], string.format('%.0f', size[i])
end
if n > 0 then
  call('HSET', sizes, unpack(new_sizes))
  call('HSET', heads, unpack(new_heads))
end
call('HSET', position, 'token', next_token, 'state', state,
  'published', string.format('%.0f', published + (#ARGV - first + 1) / 3))

if refused then
  -- What a log loses with its key is read from Postgres.
  for i = 1, n do
    if appended[i] then
      redis.pcall('DEL', KEYS[3 + i])
      if heads_type == 'hash' then redis.pcall('HSET', heads, ARGV[13 + i], string.format('%.0f', old[i])) end
    end
  end
  if next(appended) and listing and heads_type == 'hash' then redis.pcall('HSET', heads, '', string.format('%.0f', list)) end
  if next(appended) and heads_type == 'none' then redis.pcall('DEL', heads) end
  if next(appended) and sizes_type == 'none' then redis.pcall('DEL', sizes) end
  return refused
end

-- From here on the batch is published: a message that does not go out is one that pub/sub
-- has lost, and gateways find it in the log.
for i = first, #ARGV, 3 do
  call('PUBLISH', event_prefix .. ARGV[13 + tonumber(ARGV[i])], messages[(i - first) / 3 + 1])
end
-- Also of a batch without events: tokens without a gap tell that no message was missed.
call('PUBLISH', heads_channel, cjson.encode({epoch = epoch, token = next_token, heads = n > 0 and moved or nil}))
if refused then return {'mute', refused[2], refused[3]} end
return {'ok'}
