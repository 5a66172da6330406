'use strict';

// ---------------------------------------------------------------- pure: no DOM, no clock

const THEMES = ['dark', 'light', 'high-contrast'];
const REST = 0.5;
const EASE_MS = 40; // time constant: 95 % of a jump is shown after 120 ms
const ARIA_MS = 250;
const BACKOFF_START_MS = 250;
const BACKOFF_CAP_MS = 10000;
const HELLO_DEADLINE_MS = 20000;
const SILENCE_MS = 150000; // the server says hello again at least every 85 s
const FRESH_MS = 3000;
const NO_MOTION = { value: 0, forShare: 0, againstShare: 0 };

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

const decayed = (value, at, decaySpeed, now) => value * Math.exp(-Math.max(0, decaySpeed * (now - at) / 1000));

/** What the model says at server time `now`; 0 at rest. */
function modelValue(state, config, now) {
  const { value: held, at } = state;
  const value = config.model === 'window' ? held : decayed(held, at, config.decaySpeed, now);
  return Math.abs(value) < REST ? 0 : value;
}

/** The value and the two shares (0…1) at server time `now`. */
function sample(state, config, now) {
  const value = modelValue(state, config, now);
  if (config.model === 'window' && state.forShare !== null && state.againstShare !== null) {
    return { value, forShare: state.forShare, againstShare: state.againstShare };
  }
  const forShare = (100 + value) / 200;
  return { value, forShare, againstShare: 1 - forShare };
}

function combine(a, b, weight) {
  return {
    value: a.value + weight * b.value,
    forShare: a.forShare + weight * b.forShare,
    againstShare: a.againstShare + weight * b.againstShare,
  };
}

/** How much of a jump made `elapsed` ms ago is still to be shown (1…0). */
function easeLeft(elapsed) {
  const left = Math.exp(-Math.max(0, elapsed) / EASE_MS);
  return left < 0.001 ? 0 : left;
}

/** Exponential backoff with full jitter; `random` is in [0, 1). */
const backoffDelay = (attempt, random) =>
  random * Math.min(BACKOFF_CAP_MS, BACKOFF_START_MS * 2 ** Math.min(attempt, 16));

const mayReconnect = (closeCode) => closeCode < 4000 || closeCode > 4099;
const share = (raw) => (Number.isFinite(raw) ? clamp(raw, 0, 1) : null);

function parseState(raw) {
  if (!raw || !Number.isFinite(raw.value) || !Number.isFinite(raw.version)) return null;
  return {
    version: raw.version,
    value: clamp(raw.value, -100, 100),
    at: Number.isFinite(raw.at) ? raw.at : 0,
    forVotes: Number.isFinite(raw.for) ? raw.for : 0,
    againstVotes: Number.isFinite(raw.against) ? raw.against : 0,
    forShare: share(raw.for_share),
    againstShare: share(raw.against_share),
  };
}

function parseConfig(raw) {
  if (!raw || typeof raw !== 'object') return null;
  return {
    version: Number.isFinite(raw.version) ? raw.version : 0,
    model: raw.model === 'window' ? 'window' : 'decay',
    decaySpeed: Number.isFinite(raw.decay_speed) && raw.decay_speed > 0 ? raw.decay_speed : 1,
    display: raw.display === 'split' ? 'split' : 'combined',
    theme: THEMES.includes(raw.theme) ? raw.theme : THEMES[0],
    forLabel: typeof raw.for_label === 'string' ? raw.for_label : '',
    againstLabel: typeof raw.against_label === 'string' ? raw.against_label : '',
  };
}

function parseFrame(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const newer = (shown, next) => (next && next.version >= shown.version ? next : shown);

/** A hello's state: an older session's is taken (a restored database), but no session runs backwards. */
function rebased(shown, next) {
  const ordinal = (state) => Math.floor(state.version / 2 ** 32);
  return shown && ordinal(shown) === ordinal(next) ? newer(shown, next) : next;
}

/** The base after a frame: {config, state, offset}. The same object when the frame says nothing new. */
function applyFrame(base, frame, localNow) {
  if (frame.type === 'hello') {
    const config = parseConfig(frame.config);
    const state = parseState(frame.state);
    if (!config || !state || !Number.isFinite(frame.now)) return base;
    return { config, state: rebased(base && base.state, state), offset: frame.now - localNow };
  }
  if (!base) return base;
  if (frame.type === 'sentiment' || frame.type === 'reset') {
    const state = newer(base.state, parseState(frame));
    return state === base.state ? base : { ...base, state };
  }
  if (frame.type === 'config') {
    const config = newer(base.config, parseConfig(frame.config));
    return { ...base, config, state: newer(base.state, parseState(frame.state)) };
  }
  return base;
}

function sideOf(value) {
  if (value === 0) return 'rest';
  return value > 0 ? 'for' : 'against';
}

function signed(value) {
  const size = Math.round(Math.abs(value));
  if (size === 0) return '0';
  return (value > 0 ? '+' : '−') + size;
}

function valueText(value, config) {
  const size = Math.round(Math.abs(value));
  if (size === 0) return 'Neutral';
  const label = value > 0 ? config.forLabel || 'for' : config.againstLabel || 'against';
  return `${size} of 100 towards ${label}`;
}

function percents(shares) {
  const forPercent = Math.round(shares.forShare * 100);
  const whole = Math.abs(shares.forShare + shares.againstShare - 1) < 0.005;
  const againstPercent = whole ? 100 - forPercent : Math.round(shares.againstShare * 100);
  return { forPercent: `${forPercent}%`, againstPercent: `${againstPercent}%` };
}

/** Fills (0…1) and marker (−1…1) of a display. */
function geometry(display, shown) {
  if (display === 'split') {
    return { for: shown.forShare, against: shown.againstShare, pos: shown.againstShare - shown.forShare };
  }
  const pos = clamp(shown.value / 100, -1, 1);
  return { for: Math.max(0, pos), against: Math.max(0, -pos), pos };
}

function shortCount(n) {
  if (n < 10000) return String(n);
  return new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(n);
}

/** Rough width of a text in half-em columns: CJK and emoji take two. */
const columns = (text) => [...text].reduce((sum, char) => sum + (char.codePointAt(0) >= 0x1100 ? 2 : 1), 0);

/** Font scale at which two labels have a chance to fit beside each other. */
const labelFit = (config) => clamp(38 / (columns(config.forLabel) + columns(config.againstLabel)), 0.63, 1);

// ---------------------------------------------------------------- the page

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setData(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

class View {
  constructor() {
    const find = (id) => document.getElementById(id);
    const parts = (side) => ({
      label: find(`${side}-label`), count: find(`${side}-count`), percent: find(`${side}-percent`),
    });
    this.root = document.documentElement;
    this.meter = find('meter');
    this.marker = find('marker');
    this.number = find('number');
    this.for = parts('for');
    this.against = parts('against');
    this.calm = matchMedia('(prefers-reduced-motion: reduce)');
    this.ariaAt = -Infinity;
  }

  /** `name` is connected or live: whether the server speaks, whether there is something to show. */
  flag(name, on) {
    setData(this.root, name, String(on));
  }

  showConfig(config) {
    for (const name of ['theme', 'display', 'model']) setData(this.root, name, config[name]);
    setText(this.for.label, config.forLabel);
    setText(this.against.label, config.againstLabel);
    this.root.style.setProperty('--label-fit', labelFit(config).toFixed(3));
    this.meter.setAttribute('aria-label', `Chat sentiment from ${config.againstLabel} to ${config.forLabel}`);
  }

  showCounts(state) {
    setText(this.for.count, shortCount(state.forVotes));
    setText(this.against.count, shortCount(state.againstVotes));
  }

  /** `truth` is the model now, `shown` the same with the rest of the easing. */
  draw(config, truth, shown) {
    const shape = geometry(config.display, shown);
    for (const name of ['for', 'against', 'pos']) {
      this.meter.style.setProperty(`--${name}`, shape[name].toFixed(4));
    }
    setData(this.root, 'side', sideOf(truth.value));
    setText(this.number, signed(truth.value));
    const { forPercent, againstPercent } = percents(truth);
    setText(this.for.percent, forPercent);
    setText(this.against.percent, againstPercent);
  }

  /** Assistive technology gets the truth, but not sixty times a second. */
  tell(config, value, now, atOnce) {
    if (!atOnce && now - this.ariaAt < ARIA_MS) return;
    this.ariaAt = now;
    this.meter.setAttribute('aria-valuenow', String(Math.round(value * 10) / 10));
    this.meter.setAttribute('aria-valuetext', valueText(value, config));
  }

  /** A short kick of the marker, so that a vote is felt. */
  kick(jump) {
    if (this.calm.matches || Math.abs(jump) < 1 || this.marker.getAnimations().length > 0) return;
    this.marker.animate({ transform: ['scale(1.14)', 'scale(1)'] }, { duration: 180, easing: 'ease-out' });
  }
}

// ---------------------------------------------------------------- motion

class Bar {
  constructor(view) {
    this.view = view;
    this.base = null;
    this.jump = NO_MOTION; // what was shown minus the truth, at the last jump
    this.jumpAt = 0;
    this.truth = null; // at the last look
    this.pending = 0;
    this.step = this.step.bind(this);
  }

  receive(frame) {
    const now = performance.now();
    const before = this.base;
    const next = applyFrame(before, frame, now);
    if (next === before) return false;
    const shown = before && this.shownAt(now);
    this.base = next;
    const truth = this.truthAt(now);
    if (shown) this.easeFrom(shown, truth, now);
    this.truth = truth;
    if (!before || before.config !== next.config) this.view.showConfig(next.config);
    this.view.showCounts(next.state);
    this.view.flag('live', true);
    if (frame.type !== 'hello') this.view.kick(this.jump.value);
    this.view.tell(next.config, truth.value, now, true);
    this.wake();
    return true;
  }

  truthAt(now) {
    return sample(this.base.state, this.base.config, now + this.base.offset);
  }

  shownAt(now) {
    return combine(this.truthAt(now), this.jump, easeLeft(now - this.jumpAt));
  }

  easeFrom(shown, truth, now) {
    this.jump = this.view.calm.matches ? NO_MOTION : combine(shown, truth, -1);
    this.jumpAt = now;
  }

  wake() {
    if (this.pending === 0) this.pending = requestAnimationFrame(this.step);
  }

  step() {
    this.pending = 0;
    const now = performance.now();
    const { config } = this.base;
    const truth = this.truthAt(now);
    this.settle(truth, now);
    const left = easeLeft(now - this.jumpAt);
    this.view.draw(config, truth, combine(truth, this.jump, left));
    const decaying = config.model === 'decay' && truth.value !== 0;
    this.view.tell(config, truth.value, now, !decaying);
    if (decaying || left > 0) this.wake();
  }

  /** Coming to rest snaps the last half point to 0: ease that too. */
  settle(truth, now) {
    if (truth.value === 0 && this.truth.value !== 0) this.easeFrom(this.truth, truth, now);
    this.truth = truth;
  }
}

// ---------------------------------------------------------------- connection

class Connection {
  constructor(url, bar, view) {
    Object.assign(this, { url, bar, view, socket: null, timer: 0, attempt: 0, heardAt: 0 });
    this.greeted = false; // by the socket that is open now
    this.over = false; // the server wants no reconnect
  }

  open() {
    this.socket = new WebSocket(this.url);
    this.socket.onmessage = (event) => this.hear(event.data);
    this.socket.onclose = (event) => this.lose(event.code);
    this.loseAfter(HELLO_DEADLINE_MS);
  }

  /** A network can die without a word, and a page doesn't see pings: too long a silence is a loss. */
  loseAfter(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lose(0), ms);
  }

  hear(text) {
    this.heardAt = performance.now();
    const frame = parseFrame(text);
    if (frame && this.bar.receive(frame) && frame.type === 'hello') {
      this.greeted = true;
      this.attempt = 0;
      this.view.flag('connected', true);
    }
    if (this.greeted) this.loseAfter(SILENCE_MS);
  }

  /** The bar is left alone: it goes on decaying and nothing looks broken. */
  drop() {
    clearTimeout(this.timer);
    this.greeted = false;
    this.view.flag('connected', false);
    if (!this.socket) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
  }

  lose(code) {
    this.drop();
    if (code === 4004) this.view.flag('live', false);
    this.over = !mayReconnect(code);
    if (this.over) return;
    this.timer = setTimeout(() => this.open(), backoffDelay(this.attempt, Math.random()));
    this.attempt += 1;
  }

  /** The network is back: don't wait, and don't trust a socket that hasn't spoken since. */
  online() {
    if (this.over || (this.greeted && performance.now() - this.heardAt < FRESH_MS)) return;
    this.drop();
    this.attempt = 0;
    this.open();
  }
}

function socketUrl(place) {
  const match = /^\/overlay\/([^/]+)\/?$/.exec(place.pathname);
  if (!match) return null;
  const scheme = place.protocol === 'https:' ? 'wss:' : 'ws:';
  return `${scheme}//${place.host}/ws/overlay/${match[1]}`;
}

/**
 * OBS adds its "Custom CSS" as a style element, which the page's CSP refuses (it allows our
 * one style by hash); a sheet made by our own script is allowed.
 */
function adoptCustomCss() {
  const adopt = (node) => {
    if (!(node instanceof HTMLStyleElement)) return;
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(node.textContent);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  };
  new MutationObserver((records) => records.forEach((record) => record.addedNodes.forEach(adopt)))
    .observe(document.head, { childList: true });
}

function start() {
  adoptCustomCss();
  const url = socketUrl(location);
  if (!url) return;
  const view = new View();
  const connection = new Connection(url, new Bar(view), view);
  addEventListener('online', () => connection.online());
  connection.open();
}

if (typeof document !== 'undefined') start();
