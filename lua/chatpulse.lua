#!lua name=chatpulse_v2
-- The Redis functions of ChatPulse.
--
-- The version in the names lets two releases run side by side: a change of a function's keys,
-- arguments, answers or meaning gets a new number, here and in src/hot/functions.rs. The functions
-- of queues and limits, in queues.lua, and those of chats, in chat.lua, are appended to this file when
-- it is loaded.
--
-- chatpulse_v1, the release before, works on the same keys. Both share: the session hash's fields,
-- refs as a set of instance ids, orphans as streamer id -> time, ended as an ordinal, and the change
-- log with its epoch hash. Only v2 knows the hash's field `holders` and gives hash and refs a life.
-- v1 adds and removes single holders without a rank and may delete `holders`; then a v2 instance
-- finds rank 0 where the journal has another, and writes the holders again. v1 doesn't beat the
-- pulse, so that its changes are seen some seconds later; and v2 begins a log anew that v1 began and
-- nothing has changed in.
--
-- Every key is passed in KEYS, so that all of this also runs on a cluster; the keys of one call
-- share the hash tag of the streamer's bucket. A function that fails half-way keeps what it has
-- written, hence: read and check first, write last. The time is passed in: it is PostgreSQL's.
-- Numbers leave as strings with 17 significant digits, because a returned number is cut to an
-- integer and tostring keeps only 14.

-- Sentiment lies in -LIMIT … LIMIT; below NEGLIGIBLE a value is 0.
local LIMIT = 100
local NEGLIGIBLE = 1e-9
-- A version is ordinal * ORDINAL + stream version, exact in a double up to VERSION_MAX.
local ORDINAL = 2 ^ 32
local VERSION_MAX = 2 ^ 53
-- The number of a change log without changes. Not 0: the first number of a log that nobody began is 1.
local BEGIN = 1
-- A log's life is renewed once in so many changes.
local RENEW_EVERY = 64

-- The arithmetic, the same as in src/domain/sentiment.rs and in schema/ ---------------------------

local function settled(value)
  if value ~= value or math.abs(value) < NEGLIGIBLE then
    return 0
  end
  return math.max(-LIMIT, math.min(LIMIT, value))
end

local function decay_factor(x)
  if x >= 100 then
    return 0
  elseif x > 0 then
    return math.exp(-x)
  end
  return 1
end

local function decayed(value, speed, at, now)
  return settled(value * decay_factor(speed * (math.max(now - at, 0) / 1000)))
end

-- seconds: list of {second, for, against}
local function balance(seconds, window_seconds, now)
  local oldest = math.floor(now / 1000) - window_seconds
  local for_weight, against_weight = 0, 0
  for _, tally in ipairs(seconds) do
    if tally[1] > oldest then
      for_weight = for_weight + tally[2]
      against_weight = against_weight + tally[3]
    end
  end
  local total = for_weight + against_weight
  if total > 0 then
    return settled(LIMIT * (for_weight - against_weight) / total)
  end
  return 0
end

-- session: a hash's fields by name
local function value_at(session, now)
  local at = tonumber(session.last_update)
  if session.model == 'window' then
    local seconds = cjson.decode(session.seconds or '[]')
    return balance(seconds, tonumber(session.window_seconds), math.max(now, at))
  end
  return decayed(tonumber(session.value), tonumber(session.decay_speed), at, now)
end

-- Helpers -----------------------------------------------------------------------------------------

local function exact(number)
  return string.format('%.17g', number)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- A list {name, value, name, value, …}, from `first` on, as a table by name.
local function by_name(list, first)
  local fields = {}
  for i = first, #list - 1, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

local function is_whole(text)
  local number = tonumber(text)
  return number and number >= 0 and number <= VERSION_MAX and number == math.floor(number)
end

-- What makes a state unfit to be mirrored, or nil.
local function problem_of(state)
  for _, name in ipairs({ 'version', 'last_update', 'for', 'against', 'config_version', 'window_seconds' }) do
    if not is_whole(state[name]) then
      return name .. ' is no whole number: ' .. tostring(state[name])
    end
  end
  for _, name in ipairs({ 'value', 'decay_speed', 'vote_delta' }) do
    local number = tonumber(state[name])
    if not number or number ~= number then
      return name .. ' is no number: ' .. tostring(state[name])
    end
  end
  if state.model == 'window' then
    local readable, seconds = pcall(cjson.decode, state.seconds)
    if not readable or type(seconds) ~= 'table' then
      return 'seconds is no list: ' .. tostring(state.seconds)
    end
  elseif state.model ~= 'decay' then
    return 'model is neither decay nor window: ' .. tostring(state.model)
  end
  if not state.session_id then
    return 'session_id is missing'
  end
end

-- The ordinal of the session that a version or a holders' rank belongs to; 0 for nothing.
local function ordinal_of(version)
  return math.floor(tonumber(version or 0) / ORDINAL)
end

-- Empties a session's hash but for what tells who holds it.
local function keep_holders(session, rank, last_disconnect)
  redis.call('DEL', session)
  redis.call('HSET', session, 'holders', rank)
  if last_disconnect then
    redis.call('HSET', session, 'last_disconnect', last_disconnect)
  end
end

-- Gives the keys of a live session their life. Whoever knows the session renews it by writing; it
-- is for sessions that all instances which knew them forgot to remove.
local function renew(session, refs, life_ms)
  redis.call('PEXPIRE', session, life_ms)
  redis.call('PEXPIRE', refs, life_ms)
end

local function begin_log(log, epoch, new_epoch, ttl_ms)
  redis.call('DEL', log, epoch)
  redis.call('HSET', epoch, 'id', new_epoch, 'newest', BEGIN, 'floor', '0')
  redis.call('PEXPIRE', epoch, ttl_ms)
end

-- Notes in a bucket's change log that a streamer's state changed.
--
-- The log is a sorted set streamer id -> change number. Beside it, in the epoch hash: `id` (random,
-- new with each new log), `newest` (the last number given), `floor` (the highest number trimmed
-- away: who has read less has missed something), and for each streamer in the log its version.
local function note_change(log, epoch, streamer_id, version, new_epoch, log_max, ttl_ms)
  local number = redis.call('HINCRBY', epoch, 'newest', 1)
  if number <= BEGIN then
    -- There was no log.
    begin_log(log, epoch, new_epoch, ttl_ms)
    number = redis.call('HINCRBY', epoch, 'newest', 1)
  end
  local is_new = redis.call('ZADD', log, number, streamer_id) == 1
  redis.call('HSET', epoch, streamer_id, version)
  -- A log does not grow by a streamer that is in it already.
  local entries = is_new and redis.call('ZCARD', log) or 0
  local excess = entries - log_max
  if excess > 0 then
    local trimmed = redis.call('ZPOPMIN', log, excess)
    for i = 1, #trimmed, 2 do
      redis.call('HDEL', epoch, trimmed[i])
    end
    redis.call('HSET', epoch, 'floor', trimmed[#trimmed])
  end
  if entries == 1 or number % RENEW_EVERY == 0 then
    redis.call('PEXPIRE', log, ttl_ms)
    redis.call('PEXPIRE', epoch, ttl_ms)
  end
end

-- The functions -----------------------------------------------------------------------------------

-- Writes a session's absolute state if it is newer than what is there, and notes the change.
--
-- KEYS: session hash, change log, epoch hash, ended marker, refs
-- ARGV: streamer id, epoch for a new log, entries the log keeps, the log's life in ms, the session's
--       life in ms, then the hash's fields: name, value, name, value, …
-- Answers 'written', or 'older' when the same state or a newer one is there, or holders of a newer
-- session, or the session has ended.
local function mirror(keys, args)
  local session, log, epoch, ended, refs = unpack(keys)
  local streamer_id, new_epoch = args[1], args[2]
  local log_max, ttl_ms, life_ms = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  local state = by_name(args, 6)
  local problem = problem_of(state)
  if not problem and math.min(log_max or 0, ttl_ms or 0, life_ms or 0) < 1 then
    problem = 'a bound or a life is no positive number'
  end
  if problem then
    return redis.error_reply('ERR mirror: ' .. problem)
  end
  local version = tonumber(state.version)
  local ordinal = ordinal_of(version)
  local there = redis.call('HMGET', session, 'version', 'session_id', 'holders', 'last_disconnect')
  local held_ordinal = ordinal_of(there[3])
  if held_ordinal > ordinal then
    return 'older'
  elseif there[1] then
    if tonumber(there[1]) >= version then
      return 'older'
    end
  elseif tonumber(redis.call('GET', ended) or -1) >= ordinal then
    -- A late write of an ended session must not bring it back.
    return 'older'
  end
  if there[2] ~= state.session_id then
    -- Who holds the new session may have been written before its first state; what is there of the
    -- one before says nothing about it.
    if there[3] and held_ordinal == ordinal then
      keep_holders(session, there[3], there[4])
    elseif there[3] then
      redis.call('DEL', session, refs)
    else
      redis.call('DEL', session)
    end
  elseif state.model ~= 'window' then
    redis.call('HDEL', session, 'seconds')
  end
  redis.call('HSET', session, unpack(args, 6))
  renew(session, refs, life_ms)
  note_change(log, epoch, streamer_id, state.version, new_epoch, log_max, ttl_ms)
  return 'written'
end

-- Writes what votes change of a session, if all else of it is there already: the hot way of `mirror`.
--
-- KEYS: session hash, change log, epoch hash
-- ARGV: streamer id, epoch for a new log, entries the log keeps, the log's life in ms, session id, config
--       version, then the hash's fields that votes change: name, value, …
-- Answers 'written', or 'older' when the same state or a newer one is there, or 'unknown' when the whole
-- state is needed: another session or config is there, or none. Does not renew the session's life.
local function move(keys, args)
  local session, log, epoch = unpack(keys)
  local log_max, ttl_ms = tonumber(args[3]), tonumber(args[4])
  local state = by_name(args, 7)
  local value = tonumber(state.value)
  if not is_whole(state.version) or not is_whole(state.last_update) or not value or value ~= value then
    return redis.error_reply('ERR move: the version, the time or the value is no number')
  elseif math.min(log_max or 0, ttl_ms or 0) < 1 then
    return redis.error_reply('ERR move: a bound or a life is no positive number')
  end
  local version = tonumber(state.version)
  local fields = { 'version', 'session_id', 'config_version', 'config_json_version', 'holders' }
  local there = redis.call('HMGET', session, unpack(fields))
  if tonumber(there[1] or -1) >= version then
    return 'older'
  end
  local same_config = there[3] == args[6] and there[4] == args[6]
  if there[2] ~= args[5] or not same_config or ordinal_of(there[5]) > ordinal_of(version) then
    return 'unknown'
  end
  redis.call('HSET', session, unpack(args, 7))
  note_change(log, epoch, args[1], state.version, args[2], log_max, ttl_ms)
  return 'written'
end

-- Reads a session as it stands at a point in time.
--
-- KEYS: session hash
-- ARGV: now (ms)
-- Answers the hash's fields as name, value, …, and as the last pair `value_now`, the value at
-- `now`; an empty list when the session is not there.
local function read(keys, args)
  local now = tonumber(args[1])
  if not now then
    return redis.error_reply('ERR read: now is no number')
  end
  local fields = redis.call('HGETALL', keys[1])
  local session = by_name(fields, 1)
  if not session.version then
    return {}
  end
  fields[#fields + 1] = 'value_now'
  fields[#fields + 1] = exact(value_at(session, now))
  return fields
end

-- What changed in a bucket since a cursor.
--
-- KEYS: change log, epoch hash
-- ARGV: the epoch last seen, the change number last seen, changes wanted at most, epoch for a new
--       log, the log's life in ms
-- Answers {'changes' or 'reset', epoch, number to go on from, streamer id, version, …}. 'reset'
-- says that changes may have been missed: the epoch is another, the log has gone back, or what
-- came after the number is trimmed away.
--
-- It begins a log that is not there, so that a reader of an idle bucket keeps its cursor. And so it
-- is a function that writes: a server that can't be written to, where nothing can be mirrored
-- either, refuses it instead of answering that nothing changes. Asking does not lengthen the log's
-- life: one without a change for that long is begun anew, and its readers reset.
local function changes_since(keys, args)
  local log, epoch = keys[1], keys[2]
  local number, wanted = tonumber(args[2]), tonumber(args[3])
  local new_epoch, ttl_ms = args[4], tonumber(args[5])
  if not number or not wanted or wanted < 1 or not ttl_ms or ttl_ms < 1 then
    return redis.error_reply('ERR changes_since: number, limit or life is no number')
  end
  local head = redis.call('HMGET', epoch, 'id', 'newest', 'floor')
  local id, newest, floor = head[1], tonumber(head[2] or 0), tonumber(head[3] or 0)
  if not id then
    begin_log(log, epoch, new_epoch, ttl_ms)
    return { 'reset', new_epoch, '0' }
  elseif id ~= args[1] or newest < number or number < floor then
    return { 'reset', id, whole(newest) }
  end
  local answer = { 'changes', id, whole(newest) }
  if newest == number then
    return answer
  end
  local after = '(' .. whole(number)
  local changed = redis.call('ZRANGEBYSCORE', log, after, '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
  for i = 1, #changed, 2 do
    answer[#answer + 1] = changed[i]
    answer[#answer + 1] = redis.call('HGET', epoch, changed[i]) or '0'
  end
  if #changed == 2 * wanted then
    answer[3] = changed[#changed]
  end
  return answer
end

-- Writes who holds a session, if it is newer than what is there; nobody makes it an orphan.
--
-- The rank is ordinal * ORDINAL + a number that grows with each change of the session's holders. It
-- stands in the session's hash, also before the first state does: a hash without a `version` is no
-- session yet.
--
-- KEYS: refs, session hash, orphans, ended marker
-- ARGV: streamer id, rank, since when nobody holds it (ms; '' while somebody does), the orphans'
--       life in ms, the session's life in ms, then the ids of the instances that hold it
-- Answers 'written', or 'older' when the same holders or newer ones are there, or a newer session,
-- or the session has ended.
local function holders(keys, args)
  local refs, session, orphans, ended = unpack(keys)
  local streamer_id, rank, unheld_since, ttl_ms, life_ms = unpack(args, 1, 5)
  if not is_whole(rank) or not (unheld_since == '' or is_whole(unheld_since)) then
    return redis.error_reply('ERR holders: the rank or the time is no whole number')
  elseif not is_whole(ttl_ms) or not is_whole(life_ms) then
    return redis.error_reply('ERR holders: a life is no whole number')
  end
  local ordinal = ordinal_of(rank)
  local there = redis.call('HMGET', session, 'version', 'holders')
  local newer_there = tonumber(there[2] or -1) >= tonumber(rank) or ordinal_of(there[1]) > ordinal
  if newer_there or tonumber(redis.call('GET', ended) or -1) >= ordinal then
    return 'older'
  end
  redis.call('DEL', refs)
  for i = 6, #args do
    redis.call('SADD', refs, args[i])
  end
  redis.call('HSET', session, 'holders', rank)
  if unheld_since == '' then
    redis.call('HDEL', session, 'last_disconnect')
    redis.call('ZREM', orphans, streamer_id)
  else
    redis.call('HSET', session, 'last_disconnect', unheld_since)
    redis.call('ZADD', orphans, unheld_since, streamer_id)
    redis.call('PEXPIRE', orphans, ttl_ms)
  end
  renew(session, refs, life_ms)
  return 'written'
end

-- Removes an ended session; spares the state and the holders of a newer one of the same streamer.
--
-- KEYS: session hash, refs, change log, epoch hash, orphans, ended marker
-- ARGV: streamer id, the ended session's ordinal, the ended marker's life in ms
-- Answers the removed session's broadcaster_user_id, '' when none was there, nil when something of a
-- newer session is there.
local function remove(keys, args)
  local session, refs, log, epoch, orphans, ended = unpack(keys)
  local streamer_id, ordinal, ttl_ms = args[1], tonumber(args[2]), args[3]
  if not is_whole(args[2]) or not is_whole(ttl_ms) then
    return redis.error_reply('ERR remove: the ordinal or the life is no whole number')
  end
  local there =
    redis.call('HMGET', session, 'version', 'broadcaster_user_id', 'holders', 'last_disconnect')
  if ordinal_of(there[1]) > ordinal then
    return nil
  end
  local newer = tonumber(redis.call('GET', ended) or 0)
  redis.call('SET', ended, whole(math.max(ordinal, newer)), 'PX', ttl_ms)
  redis.call('ZREM', log, streamer_id)
  redis.call('HDEL', epoch, streamer_id)
  if ordinal_of(there[3]) > ordinal then
    local life_ms = redis.call('PTTL', session)
    keep_holders(session, there[3], there[4])
    if life_ms > 0 then
      redis.call('PEXPIRE', session, life_ms)
    end
    return nil
  end
  redis.call('DEL', session, refs)
  redis.call('ZREM', orphans, streamer_id)
  return there[2] or ''
end

-- Deletes what is there of a streamer's session, ended marker apart, so that it can be written anew.
-- The journal has to be read afterwards: whatever was mirrored before is in it by then.
--
-- KEYS: session hash, refs, change log, epoch hash, orphans
-- ARGV: streamer id
-- Answers how many of hash and refs were there.
local function discard(keys, args)
  local session, refs, log, epoch, orphans = unpack(keys)
  redis.call('ZREM', log, args[1])
  redis.call('HDEL', epoch, args[1])
  redis.call('ZREM', orphans, args[1])
  return redis.call('DEL', session, refs)
end

-- Deletes a key if it still holds a given string.
--
-- KEYS: the key
-- ARGV: the string
-- Answers 1 when it was deleted, else 0.
local function delete_if_holds(keys, args)
  if redis.call('GET', keys[1]) == args[1] then
    return redis.call('DEL', keys[1])
  end
  return 0
end

redis.register_function('chatpulse_v2_mirror', mirror)
redis.register_function('chatpulse_v2_move', move)
redis.register_function('chatpulse_v2_changes_since', changes_since)
redis.register_function('chatpulse_v2_holders', holders)
redis.register_function({ function_name = 'chatpulse_v2_read', callback = read, flags = { 'no-writes' } })
-- What frees memory works without any, too.
local frees = { 'allow-oom' }
redis.register_function({ function_name = 'chatpulse_v2_remove', callback = remove, flags = frees })
redis.register_function({ function_name = 'chatpulse_v2_discard', callback = discard, flags = frees })
redis.register_function({
  function_name = 'chatpulse_v2_delete_if_holds',
  callback = delete_if_holds,
  flags = frees,
})
