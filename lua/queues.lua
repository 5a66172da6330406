-- The functions of queues and rate limits; appended to chatpulse.lua, in one library with it. It
-- uses nothing of what stands there but the rules at its head.
--
-- A queue is a stream and a stream of dead letters, in one slot. An entry has one field, `payload`.
-- What is settled is deleted, so the stream's length is what waits; nothing else ever trims it. The
-- dead letters have no bound of their own: each was an entry of the bounded stream, acknowledged.

-- How often an entry was delivered to the consumers of a group; 0 when it is not with any.
local function deliveries(stream, group, id)
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
  -- Without the group nothing was delivered.
  if pending.err or not pending[1] then
    return 0
  end
  return pending[1][4]
end

-- A flat list {name, value, name, value, …} as a table by name.
local function named(list)
  local fields = {}
  for i = 1, #list - 1, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

local function strike_out(stream, group, id)
  redis.call('XACK', stream, group, id)
  return redis.call('XDEL', stream, id)
end

-- Puts entries into a queue: all or none.
--
-- KEYS: stream
-- ARGV: group that takes them, entries it may have at most, then the payloads
-- Answers 'queued', or 'full'.
local function enqueue(keys, args)
  local entries_max = tonumber(args[2])
  if not entries_max then
    return redis.error_reply('ERR enqueue: the bound is no number')
  end
  if redis.call('XLEN', keys[1]) + #args - 2 > entries_max then
    return 'full'
  end
  if redis.call('EXISTS', keys[1]) == 0 then
    -- Now, because a server whose memory is full by then would refuse to.
    redis.call('XGROUP', 'CREATE', keys[1], args[1], '0', 'MKSTREAM')
  end
  for i = 3, #args do
    redis.call('XADD', keys[1], '*', 'payload', args[i])
  end
  return 'queued'
end

-- Strikes out entries that are dealt with, whoever they were delivered to.
--
-- KEYS: stream
-- ARGV: group, then the ids
-- Answers how many were there.
local function settle(keys, args)
  local there = 0
  for i = 2, #args do
    there = there + strike_out(keys[1], args[1], args[i])
  end
  return there
end

-- Notes that an entry can't be dealt with: after enough deliveries it goes to the dead letters.
--
-- KEYS: stream, dead letters
-- ARGV: group, id, deliveries after which it is dead (0: at once), reason
-- Answers 'again', 'dead', or 'gone' when it was no longer there.
local function fail(keys, args)
  local stream, dead_letters = keys[1], keys[2]
  local group, id, tries_max, reason = args[1], args[2], tonumber(args[3]), args[4]
  if not tries_max or not reason then
    return redis.error_reply('ERR fail: the bound is no number, or the reason is missing')
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    -- Whoever it was with still has it on their list.
    redis.pcall('XACK', stream, group, id)
    return 'gone'
  end
  local tries = deliveries(stream, group, id)
  if tries < tries_max then
    return 'again'
  end
  local payload = named(entry[2]).payload or ''
  redis.call('XADD', dead_letters, '*', 'payload', payload, 'id', id, 'reason', reason, 'tries', tries)
  strike_out(stream, group, id)
  return 'dead'
end

-- Puts a dead letter back into its queue, as a new entry.
--
-- KEYS: dead letters, stream
-- ARGV: the dead letter's id
-- Answers 1, or 0 when it is not there.
local function retry_dead(keys, args)
  local letter = redis.call('XRANGE', keys[1], args[1], args[1])[1]
  if not letter then
    return 0
  end
  redis.call('XADD', keys[2], '*', 'payload', named(letter[2]).payload or '')
  return redis.call('XDEL', keys[1], args[1])
end

-- Removes a group's consumers that have been idle and have nothing. One function, because whatever a
-- consumer takes between a look and its removal would go with it.
--
-- KEYS: stream
-- ARGV: group, the consumer to be spared, idle for at least so long (ms)
-- Answers how many went.
local function drop_consumers(keys, args)
  local idle_ms = tonumber(args[3])
  if not idle_ms then
    return redis.error_reply('ERR drop_consumers: the time is no number')
  end
  local consumers = redis.pcall('XINFO', 'CONSUMERS', keys[1], args[1])
  if consumers.err then
    local is_missing = consumers.err:find('NOGROUP') or consumers.err:find('no such key')
    return is_missing and 0 or consumers
  end
  local dropped = 0
  for _, fields in ipairs(consumers) do
    local consumer = named(fields)
    if consumer.name ~= args[2] and consumer.pending == 0 and consumer.idle >= idle_ms then
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], consumer.name)
      dropped = dropped + 1
    end
  end
  return dropped
end

-- Whether one more is allowed within a sliding window, and counts it if so. The same member asked for
-- again is counted once.
--
-- KEYS: the limit's sorted set, member -> time
-- ARGV: now (ms), window (ms), how many the window allows, member
-- Answers {1 or 0, how many more are allowed, ms until the next one is}.
local function rate_limit(keys, args)
  local key, member = keys[1], args[4]
  local now, window, most = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  if not (now and window and window >= 1 and most and member) then
    return redis.error_reply('ERR rate_limit: now, window or maximum is no number, or the member is missing')
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  local count = redis.call('ZCARD', key)
  if redis.call('ZSCORE', key, member) then
    return { 1, math.max(most - count, 0), 0 }
  elseif count < most then
    redis.call('ZADD', key, args[1], member)
    redis.call('PEXPIRE', key, args[2])
    return { 1, most - count - 1, 0 }
  end
  -- The one whose leaving makes room: the oldest, unless the maximum was lowered meanwhile.
  local leaving = redis.call('ZRANGE', key, count - most, count - most, 'WITHSCORES')
  local since = tonumber(leaving[2] or now)
  return { 0, 0, math.max(since + window - now, 1) }
end

redis.register_function('chatpulse_v2_enqueue', enqueue)
redis.register_function('chatpulse_v2_retry_dead', retry_dead)
redis.register_function('chatpulse_v2_rate_limit', rate_limit)
-- What frees memory works without any, too.
local frees_memory = { 'allow-oom' }
redis.register_function({ function_name = 'chatpulse_v2_settle', callback = settle, flags = frees_memory })
redis.register_function({ function_name = 'chatpulse_v2_fail', callback = fail, flags = frees_memory })
redis.register_function({
  function_name = 'chatpulse_v2_drop_consumers',
  callback = drop_consumers,
  flags = frees_memory,
})
