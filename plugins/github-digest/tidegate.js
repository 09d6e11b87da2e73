// tidegate.js - write tidegate plugins in JavaScript or TypeScript.
//
//     import { emit, handlers, state } from './tidegate.js';
//
//     export const handler = handlers({
//       'order.created'(event) {
//         const sum = (state.get('sum') ?? 0) + event.json().amount;
//         state.set('sum', sum);
//         emit('order.totalled', { sum });
//       },
//     });
//
// What is written, emitted, set and sent is recorded when the function returns, exactly once, and
// dropped when it throws. `throw reject(why)` gives an event up, `throw retry(why)` asks for another
// attempt; anything else that is thrown is a trap, with its stack in the plugin's log. None may be
// `async`: a delivery waits for nothing, and a promise that is returned is a trap, too.
//
// Values in the state, data of events, bodies of requests: JSON, or bytes where they are a
// Uint8Array. `console.log` writes to the plugin's log, `Date.now()` is the time of the input; there is
// no network. Take chance from `random`: only that is the same in a replay.

import * as bus from 'tidegate:plugin/bus@0.1.0';
import * as callsHost from 'tidegate:plugin/calls@0.1.0';
import * as context from 'tidegate:plugin/context@0.1.0';
import * as keysHost from 'tidegate:plugin/keys@0.1.0';
import * as stateHost from 'tidegate:plugin/state@0.1.0';
import * as timersHost from 'tidegate:plugin/timers@0.1.0';

const JSON_TYPE = 'application/json';

// ---- Text and bytes ---------------------------------------------------------------------------

// The engine's own functions do the work, by way of texts of which each character is one byte: a loop
// over the bytes would burn ten times the fuel, and that of a delivery would end at a few kilobytes.

/** UTF-8 of a text. A lone surrogate becomes U+FFFD. */
export function encode(text) {
  return Uint8Array.fromBase64(btoa(unescape(encodeURIComponent(text.toWellFormed()))));
}

/** Text of UTF-8. What is malformed becomes U+FFFD. */
export function decode(bytes) {
  const raw = atob(bytes.toBase64());
  if (!/[\x80-\xff]/.test(raw)) return raw;
  try {
    return ofUtf8(raw);
  } catch {
    return raw.replace(LETTERS, (letter) => (letter.length > 1 ? ofUtf8(letter) : '\ufffd'));
  }
}

const ofUtf8 = (raw) => decodeURIComponent(escape(raw));

/** Every letter of two to four bytes, and every byte that belongs to none. */
const LETTERS = new RegExp(
  [
    '[\xc2-\xdf][\x80-\xbf]',
    '\xe0[\xa0-\xbf][\x80-\xbf]',
    '[\xe1-\xec\xee\xef][\x80-\xbf]{2}',
    '\xed[\x80-\x9f][\x80-\xbf]',
    '\xf0[\x90-\xbf][\x80-\xbf]{2}',
    '[\xf1-\xf3][\x80-\xbf]{3}',
    '\xf4[\x80-\x8f][\x80-\xbf]{2}',
    '[\x80-\xff]',
  ].join('|'),
  'g',
);

/** A text as the host takes it: half a surrogate pair, as it is left where a text is cut, is none. */
const text = (value) => (typeof value === 'string' ? value.toWellFormed() : value);

/** An escape of JSON, and U+FFFD for that of half a surrogate pair. */
const whole = (escape) => (escape.startsWith('\\ud') ? '\ufffd' : escape);

function asBytes(value) {
  if (value instanceof Uint8Array) return value;
  const json = JSON.stringify(value);
  // What is half a pair stands there as an escape, which many readers refuse.
  return encode(json.includes('\\ud') ? json.replace(/\\(?:u....|.)/g, whole) : json);
}

function parse(bytes, what) {
  const text = decode(bytes);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw reject(`${what} is not JSON: ${error.message}`);
  }
}

/** Milliseconds as the host takes them: whole ones, rounded up, and none below zero. */
function millis(value) {
  const ms = Math.ceil(value ?? NaN);
  if (Number.isNaN(ms)) throw new TypeError(`${value} is no number of milliseconds`);
  return Math.min(Math.max(ms, 0), Number.MAX_SAFE_INTEGER);
}

const maybeMillis = (value) => (value == null ? null : millis(value));

// ---- Verdicts ---------------------------------------------------------------------------------

/** A verdict: thrown, never returned. */
export class Failure extends Error {
  constructor(tag, reason, afterMs) {
    super(reason);
    this.name = tag === 'retry' ? 'Retry' : 'Rejection';
    this.tag = tag;
    this.afterMs = afterMs;
  }
}

/** Never going to work: `throw reject('no such order')`. */
export const reject = (reason) => new Failure('reject', text(String(reason)));

/** The cause may go away: `throw retry('not yet', 5_000)`. Without `afterMs`: the manifest's backoff. */
export const retry = (reason, afterMs) =>
  new Failure('retry', text(String(reason)), maybeMillis(afterMs));

/** An effect that the host refused; `code`: exceeded, invalid, unkeyed, denied, read-only, other. */
export class EffectError extends Error {
  constructor(code, detail) {
    super(detail ? `${code}: ${detail}` : code);
    this.name = 'EffectError';
    this.code = code;
    this.detail = detail;
  }
}

function effect(run) {
  try {
    return run();
  } catch (error) {
    const refusal = error?.payload ?? error;
    if (typeof refusal?.tag === 'string') throw new EffectError(refusal.tag, refusal.val);
    throw error;
  }
}

/** The function of a name; what every object has, such as `constructor`, is none. */
const own = (byName, name) => (Object.hasOwn(byName, name) ? byName[name] : undefined);

/** Calls a function of the plugin. One that is asynchronous would end at its first `await`. */
function call(run, ...given) {
  const returned = run(...given);
  if (typeof returned?.then !== 'function') return returned;
  throw new TypeError('it returned a promise: a delivery waits for none, leave out `async`');
}

/** Runs a handler; turns what it throws into what the host understands. */
function deliver(run) {
  try {
    return run();
  } catch (error) {
    if (error instanceof Failure) {
      if (error.tag === 'reject') throw { tag: 'reject', val: error.message };
      throw { tag: 'retry', val: { reason: error.message, afterMs: error.afterMs } };
    }
    if (error instanceof EffectError) throw { tag: 'reject', val: error.message };
    const stack = String(error?.stack ?? '').trimEnd();
    context.log('error', text(stack ? `${error}\n${stack}` : String(error)));
    throw error;
  }
}

// ---- Events, requests -------------------------------------------------------------------------

class Body {
  constructor(raw) {
    Object.assign(this, raw);
  }
  /** The data as JSON. Data that is none rejects the delivery. */
  json() {
    return parse(this.data, 'the data');
  }
  text() {
    return decode(this.data);
  }
}

/** `order.*` takes one segment for the star, `payment.**` zero or more. */
export function matches(pattern, type) {
  const step = (p, t) => {
    if (p === wanted.length) return t === given.length;
    if (wanted[p] === '**') return step(p + 1, t) || (t < given.length && step(p, t + 1));
    return t < given.length && (wanted[p] === '*' || wanted[p] === given[t]) && step(p + 1, t + 1);
  };
  const [wanted, given] = [pattern.split('.'), type.split('.')];
  return step(0, 0);
}

/**
 * The `handler` of a plugin: functions by event type, first match; a type nobody takes is left alone.
 * `timer` and `response` take what comes back of timers and calls, by name.
 */
export function handlers(byType, { timers: byTimer = {}, responses: byCall = {} } = {}) {
  const entries = Object.entries(byType);
  const find = (event) => {
    if (event.type === 'tidegate.timer') {
      return own(byTimer, context.attribute('timername')) ?? byTimer['*'];
    }
    if (event.type === 'tidegate.response') {
      return own(byCall, context.attribute('callname')) ?? byCall['*'];
    }
    return undefined;
  };
  return {
    handle: (raw) =>
      deliver(() => {
        const event = new Body(raw);
        const other = entries.find(([pattern]) => matches(pattern, event.type))?.[1];
        const take = find(event) ?? other;
        if (take) call(take, event);
      }),
  };
}

function answered(byName, kind, raw) {
  return deliver(() => {
    const run = own(byName, raw.operation);
    if (!run) {
      throw reject(`no ${kind} \`${raw.operation}\`; there is ${Object.keys(byName).join(', ')}`);
    }
    const request = new Body(raw);
    request.params = Object.fromEntries(raw.attributes);
    const answer = call(run, request);
    if (answer === undefined) return { contentType: '', data: new Uint8Array(), attributes: [] };
    const contentType = answer instanceof Uint8Array ? 'application/octet-stream' : JSON_TYPE;
    return { contentType, data: asBytes(answer), attributes: [] };
  });
}

/** The `command` of a plugin: functions by name; what they return is the answer, as JSON. */
export const commands = (byName) => ({ execute: (raw) => answered(byName, 'command', raw) });

/** The `query` of a plugin: functions by name. State is there to read; effects are refused. */
export const queries = (byName) => ({ read: (raw) => answered(byName, 'query', raw) });

/**
 * The `upcaster` of a plugin: functions by type, each taking `(data, version, event)` and returning
 * `{ version, data }`, the version higher than before. What it throws says why not.
 */
export const upcasters = (byType) => ({
  upcast(raw, version) {
    try {
      const lift = own(byType, raw.type);
      if (!lift) throw new Error(`no upcaster for \`${raw.type}\``);
      const event = new Body(raw);
      const lifted = call(lift, event.json(), version, event);
      return {
        version: lifted.version,
        contentType: lifted.contentType ?? raw.contentType,
        data: asBytes(lifted.data),
      };
    } catch (error) {
      throw text(String(error?.message ?? error));
    }
  },
});

// ---- Effects ----------------------------------------------------------------------------------

/** Emits an event under the key of the input, or `options.key`; returns its id. */
export function emit(type, data, options = {}) {
  const none = data === undefined;
  const contentType =
    options.contentType ??
    (none ? '' : data instanceof Uint8Array ? 'application/octet-stream' : JSON_TYPE);
  const attributes = Object.entries(options.attributes ?? {}).map(([n, v]) => [n, text(String(v))]);
  attributes.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const draft = {
    type: text(type),
    key: text(options.key ?? null),
    bus: text(options.bus ?? null),
    contentType: text(contentType),
    data: none ? new Uint8Array() : asBytes(data),
    attributes,
  };
  return effect(() => bus.emit(draft));
}

/** State of this plugin and key. */
export const state = {
  /** The value of a name as JSON; undefined: none. */
  get(name) {
    const bytes = stateHost.get(text(name));
    return bytes == null ? undefined : parse(bytes, `the state \`${name}\``);
  },
  bytes(name) {
    return stateHost.get(text(name)) ?? undefined;
  },
  /** `ttlMs`: gone that long after the input was recorded. */
  set(name, value, { ttlMs } = {}) {
    effect(() => stateHost.set(text(name), asBytes(value), maybeMillis(ttlMs)));
  },
  delete(name) {
    effect(() => stateHost.delete(text(name)));
  },
  /** Every name with a prefix, ascending. */
  *list(prefix = '') {
    yield* paged((after) => stateHost.list(text(prefix), after, 1000));
  },
};

/** State across keys: answers in queries only. */
export const keys = {
  *list(prefix = '') {
    yield* paged((after) => keysHost.list(text(prefix), after, 1000));
  },
  get(key, name) {
    const bytes = keysHost.get(text(key), text(name));
    return bytes == null ? undefined : parse(bytes, `the state \`${name}\` of \`${key}\``);
  },
};

function* paged(page) {
  for (let after = null; ; ) {
    const names = page(after);
    yield* names;
    if (names.length < 1000) return;
    after = names[names.length - 1];
  }
}

/** Durable timers of this plugin and key; they come back through `handlers(…, { timers })`. */
export const timers = {
  /** Sets or replaces. `dueMs` is absolute; past: at once. */
  set(name, dueMs, data) {
    const bytes = data === undefined ? new Uint8Array() : asBytes(data);
    effect(() => timersHost.set(text(name), millis(dueMs), bytes));
  },
  /** The same, counted from the input. */
  after(name, ms, data) {
    timers.set(name, nowMs() + millis(ms), data);
  },
  cancel(name) {
    effect(() => timersHost.cancel(text(name)));
  },
};

/** Requests to the outside; answers come back through `handlers(…, { responses })`. */
export const calls = {
  /** `{ name, method, url, headers, body, timeoutMs }`; returns the idempotency key. */
  send({ name, method = 'POST', url, headers = {}, body, timeoutMs = 10_000 }) {
    const all = Object.entries(headers).map(([n, v]) => [n.toLowerCase(), text(String(v))]);
    const json = body !== undefined && !(body instanceof Uint8Array);
    if (json && !all.some(([n]) => n === 'content-type')) all.push(['content-type', JSON_TYPE]);
    all.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    const bytes = body === undefined ? new Uint8Array() : asBytes(body);
    const request = { name: text(name), method, url: text(url), headers: all, body: bytes, timeoutMs };
    return effect(() => callsHost.send(request));
  },
};

// ---- What a delivery may know -----------------------------------------------------------------

/** A further CloudEvents attribute of the input; undefined: none. */
export const attribute = (name) => context.attribute(name) ?? undefined;
/** All of them. */
export const attributes = () => Object.fromEntries(context.attributes());
/** A string of `[config]` in the manifest; undefined: none. */
export const config = (name) => context.config(name) ?? undefined;
/** When the log took the input; stands still during a delivery. */
export const nowMs = () => context.nowMs();
/** From 1. */
export const attempt = () => context.attempt();
/** Whether the input comes from a redriven dead letter. */
export const redriven = () => context.redriven();
/** In [0, 1), the same in a replay. Not for secrets. */
export const random = () => (Number(context.randomU64()) / 2 ** 64) % 1;

const words = (parts) =>
  text(parts.map((part) => (typeof part === 'string' ? part : JSON.stringify(part))).join(' '));

/** The plugin's log. */
export const log = {
  trace: (...parts) => context.log('trace', words(parts)),
  debug: (...parts) => context.log('debug', words(parts)),
  info: (...parts) => context.log('info', words(parts)),
  warn: (...parts) => context.log('warn', words(parts)),
  error: (...parts) => context.log('error', words(parts)),
};

// What libraries expect to be there.
globalThis.console ??= { ...log, log: log.info };
