-- Publishes a board, whole or as a delta, in one step that nobody can see half
-- done, and only while this worker holds the lease.
--
-- KEYS  1 board (sorted set)  2 meta (hash)  3 lease (string)
-- ARGV  1 lease holder  2 lease ms  3 'delta' or 'replace'
--       4 expected seq  5 expected members  6 time to live ms
--       7 number of meta fields and values  8… these
--       then: number of removed members, these,
--       then: score, member, score, member …
-- Gives 'ok', 'lost' (the lease is not ours), 'stale' (the board is not the one
-- the delta was made for) or 'wrongtype' (the key is somebody else's).

if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 'lost'
end
redis.call('PEXPIRE', KEYS[3], ARGV[2])

local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then
  return 'wrongtype'
end
local meta_kind = redis.call('TYPE', KEYS[2])['ok']
if meta_kind ~= 'hash' and meta_kind ~= 'none' then
  return 'wrongtype'
end

if ARGV[3] == 'delta' then
  if redis.call('HGET', KEYS[2], 'seq') ~= ARGV[4]
    or redis.call('ZCARD', KEYS[1]) ~= tonumber(ARGV[5]) then
    return 'stale'
  end
else
  -- The hash too: all its fields are of the same publication.
  redis.call('DEL', KEYS[1], KEYS[2])
end

local at = 8
local fields = tonumber(ARGV[7])
redis.call('HSET', KEYS[2], unpack(ARGV, at, at + fields - 1))
at = at + fields

-- unpack is bounded by Lua's stack.
local function in_slices(command, from, to)
  while from <= to do
    local last = math.min(from + 3999, to)
    redis.call(command, KEYS[1], unpack(ARGV, from, last))
    from = last + 1
  end
end

local removed = tonumber(ARGV[at])
in_slices('ZREM', at + 1, at + removed)
in_slices('ZADD', at + removed + 1, #ARGV)

redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return 'ok'
