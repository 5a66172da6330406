-- The functions of chats' windows; appended to chatpulse.lua, in one library with it. It uses nothing
-- of what stands there but the rules at its head.
--
-- A window is a list of lines, oldest first. A line is JSON without spaces, as src/hot/chat.rs writes
-- it, which begins with `at` (ms), `id` (the message's) and `login` and goes on with others. It is not
-- decoded here, which would take most of the time: the bare text does, since a quote within a JSON
-- string is never bare.

-- A line's text with when it was written and its message's id, as it stands there; nil of what is no line.
local function line_of(text)
  local at, id = string.match(text, '^{"at":(%d+),"id":"(.-)","login":"')
  return at and { at = tonumber(at), id = id, text = text }
end

-- The last lines of a window that are no older than a time, newest first. Mostly there are none.
local function tail_since(window, since)
  local tail = {}
  while true do
    local text = redis.call('LINDEX', window, -1 - #tail)
    local line = text and line_of(text)
    if not line or line.at < since then
      return tail
    end
    tail[#tail + 1] = line
  end
end

-- The lines of a window's tail and those of a batch that are new, in order of time; of equal times the
-- tail's come first. And how many are new.
local function merged(tail, batch)
  local lines, known = {}, {}
  for place = #tail, 1, -1 do
    lines[#lines + 1] = tail[place]
    known[tail[place].id] = true
  end
  for _, line in ipairs(batch) do
    if not known[line.id] then
      lines[#lines + 1] = line
      known[line.id] = true
    end
  end
  if #tail > 0 then
    for place, line in ipairs(lines) do
      line.place = place
    end
    table.sort(lines, function(a, b)
      return a.at < b.at or a.at == b.at and a.place < b.place
    end)
  end
  return lines, #lines - #tail
end

-- Removes the lines of a window that are older than a time. Mostly there are none.
local function drop_before(window, time)
  local old = 0
  while true do
    local text = redis.call('LINDEX', window, old)
    local line = text and line_of(text)
    if not line or line.at >= time then
      break
    end
    old = old + 1
  end
  if old > 0 then
    redis.call('LTRIM', window, old, -1)
  end
end

-- Adds what was said in a chat to its window, and notes when it was heard. Reads no more of the window
-- than has to be put in order with what is new; a message that is there already is dropped if it is
-- in that part, or in the batch twice.
--
-- Lines that are older than the window's life when the chat is heard go.
--
-- KEYS: window, when the bucket's chats were heard (sorted set: streamer id -> ms)
-- ARGV: streamer id, when it was heard (ms; goes forward only), lines the window keeps, the window's
--       life in ms, the sorted set's life in ms, then the lines, oldest first
-- Answers how many lines were new.
local function chat_append(keys, args)
  local window, heard = keys[1], keys[2]
  local lines_max, window_ms, heard_ms = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  if not tonumber(args[2]) or math.min(lines_max or 0, window_ms or 0, heard_ms or 0) < 1 then
    return redis.error_reply('ERR chat_append: a time, a bound or a life is no positive number')
  end
  local batch = {}
  for i = 6, #args do
    local line = line_of(args[i])
    if not line then
      return redis.error_reply('ERR chat_append: a line does not begin with at, id and login')
    end
    batch[#batch + 1] = line
  end
  -- What another instance has added meanwhile may have been said later.
  local tail = batch[1] and tail_since(window, batch[1].at) or {}
  local lines, fresh = merged(tail, batch)
  if fresh > 0 then
    local texts = {}
    for place, line in ipairs(lines) do
      texts[place] = line.text
    end
    if #tail > 0 then
      redis.call('LTRIM', window, 0, -1 - #tail)
    end
    redis.call('RPUSH', window, unpack(texts))
    redis.call('LTRIM', window, -lines_max, -1)
  end
  drop_before(window, tonumber(args[2]) - window_ms)
  redis.call('PEXPIRE', window, window_ms)
  redis.call('ZADD', heard, 'GT', args[2], args[1])
  redis.call('PEXPIRE', heard, heard_ms)
  return fresh
end

-- Removes lines from a window.
--
-- KEYS: window
-- ARGV: 'all'; or 'id' or 'login', and the value as a JSON string
-- Answers how many went.
local function chat_erase(keys, args)
  local window, field, value = keys[1], args[1], args[2]
  local by_value = (field == 'id' or field == 'login') and value
  if field ~= 'all' and not by_value then
    return redis.error_reply('ERR chat_erase: neither all, nor an id or login with its value')
  end
  local there = redis.call('LRANGE', window, 0, -1)
  if field == 'all' then
    redis.call('DEL', window)
    return #there
  end
  local sought = ',"' .. field .. '":' .. value .. ','
  local erased = 0
  for _, line in ipairs(there) do
    if string.find(line, sought, 1, true) then
      erased = erased + redis.call('LREM', window, 0, line)
    end
  end
  return erased
end

redis.register_function('chatpulse_v2_chat_append', chat_append)
-- What frees memory works without any, too.
redis.register_function({
  function_name = 'chatpulse_v2_chat_erase',
  callback = chat_erase,
  flags = { 'allow-oom' },
})
