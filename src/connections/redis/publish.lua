-- Publishes a full board or a delta atomically, and only while this worker holds the
-- lease.
--
-- KEYS  1 board (sorted set)  2 meta (hash)  3 lease (string)
-- ARGV  1 lease holder  2 lease ms  3 'delta' or 'replace'
--       4 expected seq  5 expected members  6 time to live ms
--       7 number of meta fields and values  8… the fields and values
--       then: number of removed members, the members,
--       then: score, member, score, member …
-- Returns 'ok', 'lost' (this worker does not hold the lease), 'stale' (the board is not
-- the one that the delta was computed from) or 'wrongtype' (a key is not a board).

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
  -- Also delete the hash, so that all its fields come from the same publication.
  redis.call('DEL', KEYS[1], KEYS[2])
end

local at = 8
local fields = tonumber(ARGV[7])
redis.call('HSET', KEYS[2], unpack(ARGV, at, at + fields - 1))
at = at + fields

-- The stack of Lua limits the arguments of unpack.
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
