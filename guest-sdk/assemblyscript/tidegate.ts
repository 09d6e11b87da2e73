// tidegate.ts - write tidegate plugins in AssemblyScript.
//
//     import * as tidegate from "./tidegate";
//
//     tidegate.on("order.created", (event: tidegate.Event): tidegate.Outcome => {
//       const amount = event.json().integer("amount");
//       const sum = tidegate.state.getInteger("sum", 0) + amount;
//       tidegate.state.setInteger("sum", sum);
//       tidegate.emit("order.totalled", `{"sum":${sum}}`);
//       return tidegate.ok();
//     });
//
// What is written, emitted, set and sent is recorded when the function returns ok(), exactly once, and
// dropped when it fails: reject(why) gives the event up, retry(why) asks for another attempt, abort is a trap.
// An effect that the host refuses rejects the event at the end, unless lastError() was asked for.
//
// This file speaks the component model's canonical ABI with the host: texts and bytes cross as UTF-8
// in memory that is given back when the delivery ends.

// ---- The host ---------------------------------------------------------------------------------

// @ts-ignore: decorator
@external("tidegate:plugin/bus@0.1.0", "emit")
declare function hostEmit(
  type: usize, typeLen: usize, hasKey: i32, key: usize, keyLen: usize, hasBus: i32, bus: usize,
  busLen: usize, media: usize, mediaLen: usize, data: usize, dataLen: usize, attributes: usize,
  attributesLen: usize, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/state@0.1.0", "get")
declare function hostStateGet(name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/state@0.1.0", "set")
declare function hostStateSet(
  name: usize, nameLen: usize, value: usize, valueLen: usize, hasTtl: i32, ttl: u64, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/state@0.1.0", "delete")
declare function hostStateDelete(name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/state@0.1.0", "list")
declare function hostStateList(
  prefix: usize, prefixLen: usize, hasAfter: i32, after: usize, afterLen: usize, limit: u32, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/keys@0.1.0", "list")
declare function hostKeysList(
  prefix: usize, prefixLen: usize, hasAfter: i32, after: usize, afterLen: usize, limit: u32, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/keys@0.1.0", "get")
declare function hostKeysGet(key: usize, keyLen: usize, name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/timers@0.1.0", "set")
declare function hostTimerSet(
  name: usize, nameLen: usize, due: u64, data: usize, dataLen: usize, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/timers@0.1.0", "cancel")
declare function hostTimerCancel(name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/calls@0.1.0", "send")
declare function hostCall(
  name: usize, nameLen: usize, method: usize, methodLen: usize, url: usize, urlLen: usize,
  headers: usize, headersLen: usize, body: usize, bodyLen: usize, timeout: u32, out: usize,
): void;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "attributes")
declare function hostAttributes(out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "attribute")
declare function hostAttribute(name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "config")
declare function hostConfig(name: usize, nameLen: usize, out: usize): void;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "now-ms")
declare function hostNow(): u64;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "attempt")
declare function hostAttempt(): u32;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "redriven")
declare function hostRedriven(): i32;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "random-u64")
declare function hostRandom(): u64;
// @ts-ignore: decorator
@external("tidegate:plugin/context@0.1.0", "log")
declare function hostLog(level: i32, message: usize, messageLen: usize): void;

// ---- Memory of a delivery ---------------------------------------------------------------------

// Blocks outside the collected heap, each with the one before it at its start.
let blocks: usize = 0;

function take(size: usize): usize {
  const block = heap.alloc(size + 16);
  store<usize>(block, blocks);
  blocks = block;
  return block + 16;
}

/** Where `abort` and failed assertions end: a trap, with the reason in the plugin's log. */
export function onAbort(message: string | null, file: string | null, line: u32, column: u32): void {
  const where = (file ? file : "?") + ":" + line.toString() + ":" + column.toString();
  log(Level.error, (message ? message : "aborted") + " at " + where);
  unreachable();
}

/** Memory for what the host hands over. */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  const moved = take(size);
  if (old) memory.copy(moved, old, min(oldSize, size));
  return moved;
}

/** Gives back what the delivery took. No object of it is in use any more. */
export function ended(): void {
  while (blocks) {
    const before = load<usize>(blocks);
    heap.free(blocks);
    blocks = before;
  }
  problem = "";
  __collect();
}

function textAt(ptr: usize, len: usize): string {
  return String.UTF8.decodeUnsafe(ptr, len);
}

function bytesAt(ptr: usize, len: usize): Uint8Array {
  const bytes = new Uint8Array(<i32>len);
  memory.copy(bytes.dataStart, ptr, len);
  return bytes;
}

// UTF-8 of a text. Half a surrogate pair becomes U+FFFD.
function encoded(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE));
}

// A text or bytes on their way to the host.
class Out {
  len: usize;
  ptr: usize;
  static text(value: string): Out {
    const out = new Out();
    out.len = String.UTF8.byteLength(value);
    out.ptr = take(out.len);
    const replace = String.UTF8.ErrorMode.REPLACE;
    String.UTF8.encodeUnsafe(changetype<usize>(value), value.length, out.ptr, false, replace);
    return out;
  }
  static bytes(value: Uint8Array): Out {
    const out = new Out();
    out.len = value.byteLength;
    out.ptr = take(out.len);
    memory.copy(out.ptr, value.dataStart, out.len);
    return out;
  }
}

// Texts by name, as the host lays them out: a list of pairs.
class Pairs {
  ptr: usize = 0;
  len: usize = 0;
  static of(map: Map<string, string>): Pairs {
    const names = map.keys(), out = new Pairs();
    out.len = names.length;
    out.ptr = take(out.len * 16);
    for (let i = 0; i < names.length; i++) {
      const at = out.ptr + i * 16;
      const name = Out.text(names[i]), value = Out.text(map.get(names[i]));
      store<usize>(at, name.ptr);
      store<usize>(at, name.len, 4);
      store<usize>(at, value.ptr, 8);
      store<usize>(at, value.len, 12);
    }
    return out;
  }
  static at(ptr: usize, len: usize): Map<string, string> {
    const map = new Map<string, string>();
    for (let i: usize = 0; i < len; i++) {
      const at = ptr + i * 16;
      const name = textAt(load<usize>(at), load<usize>(at, 4));
      map.set(name, textAt(load<usize>(at, 8), load<usize>(at, 12)));
    }
    return map;
  }
}

// ---- Verdicts ---------------------------------------------------------------------------------

/** How a delivery ends: ok(), reject(why) or retry(why). */
export class Outcome {
  constructor(public kind: i32, public reason: string, public afterMs: i64) {}
}

export function ok(): Outcome {
  return new Outcome(0, "", -1);
}
/** The cause may go away. With afterMs < 0: the backoff of the manifest. */
export function retry(reason: string, afterMs: i64 = -1): Outcome {
  return new Outcome(1, reason, afterMs);
}
/** Never going to work: a dead letter. */
export function reject(reason: string): Outcome {
  return new Outcome(2, reason, -1);
}

let problem: string = "";

/** What the host refused since this was last asked; empty: nothing. */
export function lastError(): string {
  const said = problem;
  problem = "";
  return said;
}

const REFUSALS: string[] = ["exceeded", "invalid", "unkeyed", "denied", "read-only", "other"];

// `at`: an effect-error.
function refused(at: usize): bool {
  const kind = load<u8>(at);
  problem = REFUSALS[min(<i32>kind, 5)];
  if (kind != 2 && kind != 4) problem += ": " + textAt(load<usize>(at, 4), load<usize>(at, 8));
  return false;
}

function done(out: usize): bool {
  return load<u8>(out) == 0 || refused(out + 4);
}

/** Lowers an outcome, with the answer to a request where there is one. */
export function lower(outcome: Outcome, response: Response | null): usize {
  const ended = outcome.kind == 0 && problem.length > 0 ? reject(problem) : outcome;
  const at = take(40);
  memory.fill(at, 0, 40);
  if (ended.kind == 0) {
    if (response) {
      const media = Out.text(response.contentType);
      const data = Out.bytes(response.data);
      store<usize>(at, media.ptr, 8);
      store<usize>(at, media.len, 12);
      store<usize>(at, data.ptr, 16);
      store<usize>(at, data.len, 20);
    }
    return at;
  }
  const reason = Out.text(ended.reason);
  store<u8>(at, 1);
  store<u8>(at, ended.kind == 1 ? 0 : 1, 8);
  store<usize>(at, reason.ptr, 16);
  store<usize>(at, reason.len, 20);
  if (ended.afterMs >= 0) {
    store<u8>(at, 1, 24);
    store<i64>(at, ended.afterMs, 32);
  }
  return at;
}

// ---- Events, requests -------------------------------------------------------------------------

/** One CloudEvents 1.0 event. */
export class Event {
  id: string = "";
  source: string = "";
  /** Past tense, dotted: `order.created`. */
  type: string = "";
  /** What orders events; null: unkeyed. */
  key: string | null = null;
  /** Number in the log of its bus. */
  position: u64 = 0;
  /** Number within its key, from 1; 0: unkeyed or private. */
  sequence: u64 = 0;
  hasTime: bool = false;
  /** When it happened, as its source says. */
  timeMs: u64 = 0;
  /** When the log took it. */
  recordedMs: u64 = 0;
  contentType: string = "";
  data: Uint8Array = new Uint8Array(0);

  text(): string {
    return String.UTF8.decodeUnsafe(this.data.dataStart, this.data.byteLength);
  }
  json(): Json {
    return new Json(this.text());
  }
  /** The event at an address, as the host lays it out. */
  static at(at: usize): Event {
    const event = new Event();
    event.id = textAt(load<usize>(at), load<usize>(at, 4));
    event.source = textAt(load<usize>(at, 8), load<usize>(at, 12));
    event.type = textAt(load<usize>(at, 16), load<usize>(at, 20));
    if (load<u8>(at, 24)) event.key = textAt(load<usize>(at, 28), load<usize>(at, 32));
    event.position = load<u64>(at, 40);
    event.sequence = load<u64>(at, 48);
    event.hasTime = load<u8>(at, 56) != 0;
    event.timeMs = load<u64>(at, 64);
    event.recordedMs = load<u64>(at, 72);
    event.contentType = textAt(load<usize>(at, 80), load<usize>(at, 84));
    event.data = bytesAt(load<usize>(at, 88), load<usize>(at, 92));
    return event;
  }
}

/** A command or a question. */
export class Request {
  operation: string = "";
  key: string | null = null;
  principal: string = "";
  contentType: string = "";
  data: Uint8Array = new Uint8Array(0);
  params: Map<string, string> = new Map();

  text(): string {
    return String.UTF8.decodeUnsafe(this.data.dataStart, this.data.byteLength);
  }
  json(): Json {
    return new Json(this.text());
  }
}

/** A request from its canonical parts. */
export function requestOf(
  operation: usize, operationLen: usize, hasKey: i32, key: usize, keyLen: usize, principal: usize,
  principalLen: usize, media: usize, mediaLen: usize, data: usize, dataLen: usize, params: usize,
  paramsLen: usize,
): Request {
  const request = new Request();
  request.operation = textAt(operation, operationLen);
  if (hasKey) request.key = textAt(key, keyLen);
  request.principal = textAt(principal, principalLen);
  request.contentType = textAt(media, mediaLen);
  request.data = bytesAt(data, dataLen);
  request.params = Pairs.at(params, paramsLen);
  return request;
}

/** The answer to a request. */
export class Response {
  contentType: string = "";
  data: Uint8Array = new Uint8Array(0);
  /** JSON, as text. */
  json(text: string): void {
    this.contentType = "application/json";
    this.data = encoded(text);
  }
}

/** The next shape of an event. */
export class Lifted {
  /** Higher than before. */
  version: u32 = 0;
  /** Empty: as it was. */
  contentType: string = "";
  data: Uint8Array = new Uint8Array(0);
  /** JSON, as text. */
  json(text: string): void {
    this.data = encoded(text);
  }
}

export type Handler = (event: Event) => Outcome;
export type Answerer = (request: Request, response: Response) => Outcome;
export type Lifter = (event: Event, version: u32, lifted: Lifted) => Outcome;

const patterns: string[] = [];
const takers: Handler[] = [];
export const commands: Map<string, Answerer> = new Map();
export const queries: Map<string, Answerer> = new Map();
const lifters: Map<string, Lifter> = new Map();

/** Takes events of a type, first match: `order.*` one segment, `payment.**` zero or more. Timers come
 * back as `tidegate.timer`, with the attribute `timername`. */
export function on(type: string, take: Handler): void {
  patterns.push(type);
  takers.push(take);
}
/** Executes a command. */
export function command(name: string, run: Answerer): void {
  commands.set(name, run);
}
/** Answers a question. */
export function query(name: string, run: Answerer): void {
  queries.set(name, run);
}
/** Lifts events of a type to a higher version; what it returns beside ok() says why not. */
export function upcaster(type: string, lift: Lifter): void {
  lifters.set(type, lift);
}

function matches(wanted: string[], w: i32, given: string[], g: i32): bool {
  if (w == wanted.length) return g == given.length;
  if (wanted[w] == "**") {
    return matches(wanted, w + 1, given, g) || (g < given.length && matches(wanted, w, given, g + 1));
  }
  return g < given.length && (wanted[w] == "*" || wanted[w] == given[g]) &&
    matches(wanted, w + 1, given, g + 1);
}

/** Hands an event to whoever takes its type. */
export function dispatch(event: Event): Outcome {
  const given = event.type.split(".");
  for (let i = 0; i < patterns.length; i++) {
    if (matches(patterns[i].split("."), 0, given, 0)) return takers[i](event);
  }
  return ok();
}

/** Hands a request to whoever answers its operation. */
export function answer(known: Map<string, Answerer>, request: Request, response: Response): Outcome {
  if (!known.has(request.operation)) return reject("nobody answers `" + request.operation + "`");
  return known.get(request.operation)(request, response);
}

// ---- What the host calls ----------------------------------------------------------------------

// `tidegate build` makes an entry that exports those of them that are needed, under the names of the
// contract.

export function handle(event: usize): usize {
  return lower(dispatch(Event.at(event)), null);
}
export function handleAfter(answer: usize): void {
  ended();
}
export function execute(
  operation: usize, operationLen: usize, hasKey: i32, key: usize, keyLen: usize, principal: usize,
  principalLen: usize, media: usize, mediaLen: usize, data: usize, dataLen: usize, params: usize,
  paramsLen: usize,
): usize {
  const request = requestOf(
    operation, operationLen, hasKey, key, keyLen, principal, principalLen, media, mediaLen, data,
    dataLen, params, paramsLen,
  );
  const response = new Response();
  return lower(answer(commands, request, response), response);
}
export function executeAfter(answer: usize): void {
  ended();
}
export function read(
  operation: usize, operationLen: usize, hasKey: i32, key: usize, keyLen: usize, principal: usize,
  principalLen: usize, media: usize, mediaLen: usize, data: usize, dataLen: usize, params: usize,
  paramsLen: usize,
): usize {
  const request = requestOf(
    operation, operationLen, hasKey, key, keyLen, principal, principalLen, media, mediaLen, data,
    dataLen, params, paramsLen,
  );
  const response = new Response();
  return lower(answer(queries, request, response), response);
}
export function readAfter(answer: usize): void {
  ended();
}
// `at`: an event, and behind it its version.
export function upcast(at: usize): usize {
  const event = Event.at(at), lifted = new Lifted();
  lifted.contentType = event.contentType;
  let outcome = lifters.has(event.type)
    ? lifters.get(event.type)(event, load<u32>(at, 96), lifted)
    : reject("nobody lifts `" + event.type + "`");
  const out = take(24);
  memory.fill(out, 0, 24);
  if (outcome.kind != 0) {
    const why = Out.text(outcome.reason);
    store<u8>(out, 1);
    store<usize>(out, why.ptr, 4);
    store<usize>(out, why.len, 8);
    return out;
  }
  const media = Out.text(lifted.contentType), data = Out.bytes(lifted.data);
  store<u32>(out, lifted.version, 4);
  store<usize>(out, media.ptr, 8);
  store<usize>(out, media.len, 12);
  store<usize>(out, data.ptr, 16);
  store<usize>(out, data.len, 20);
  return out;
}
export function upcastAfter(answer: usize): void {
  ended();
}

// ---- Effects ----------------------------------------------------------------------------------

/** Emits JSON under the key of the input, or `key`. */
export function emit(type: string, json: string, key: string | null = null): bool {
  return emitBytes(type, "application/json", encoded(json), key);
}

/** Emits data as it is. */
export function emitBytes(
  type: string, contentType: string, data: Uint8Array, key: string | null = null,
): bool {
  const draft = new Draft(type);
  draft.contentType = contentType;
  draft.data = data;
  draft.key = key;
  return emitDraft(draft);
}

/** An event to be emitted. */
export class Draft {
  /** Null: the key of the input. */
  key: string | null = null;
  /** Null: the bus of the input. */
  bus: string | null = null;
  contentType: string = "";
  data: Uint8Array = new Uint8Array(0);
  /** Further CloudEvents attributes. */
  attributes: Map<string, string> = new Map();
  constructor(public type: string) {}
  /** JSON, as text. */
  json(text: string): void {
    this.contentType = "application/json";
    this.data = encoded(text);
  }
}

/** Emits an event with everything it can have. */
export function emitDraft(draft: Draft): bool {
  const kind = Out.text(draft.type), media = Out.text(draft.contentType);
  const body = Out.bytes(draft.data), attributes = Pairs.of(draft.attributes);
  const key = draft.key, bus = draft.bus;
  const own = Out.text(key ? key : ""), to = Out.text(bus ? bus : "");
  const out = take(20);
  hostEmit(
    kind.ptr, kind.len, key != null ? 1 : 0, own.ptr, own.len, bus != null ? 1 : 0, to.ptr, to.len,
    media.ptr, media.len, body.ptr, body.len, attributes.ptr, attributes.len, out,
  );
  return done(out);
}

function maybe(out: usize): Uint8Array | null {
  return load<u8>(out) ? bytesAt(load<usize>(out, 4), load<usize>(out, 8)) : null;
}

function names(out: usize): string[] {
  const list: string[] = [];
  const first = load<usize>(out), len = load<usize>(out, 4);
  for (let i: usize = 0; i < len; i++) {
    const at = first + i * 8;
    list.push(textAt(load<usize>(at), load<usize>(at, 4)));
  }
  return list;
}

/** State of this plugin and key. */
export namespace state {
  export function getBytes(name: string): Uint8Array | null {
    const n = Out.text(name), out = take(12);
    hostStateGet(n.ptr, n.len, out);
    return maybe(out);
  }
  /** The value as text: the other SDKs store JSON. */
  export function get(name: string): string | null {
    const value = getBytes(name);
    return value ? String.UTF8.decodeUnsafe(value.dataStart, value.byteLength) : null;
  }
  export function getInteger(name: string, otherwise: i64): i64 {
    const value = get(name);
    return value ? whole(value, otherwise) : otherwise;
  }
  /** With ttlMs >= 0 it is gone that long after the input was recorded. */
  export function setBytes(name: string, value: Uint8Array, ttlMs: i64 = -1): bool {
    const n = Out.text(name), v = Out.bytes(value), out = take(16);
    hostStateSet(n.ptr, n.len, v.ptr, v.len, ttlMs >= 0 ? 1 : 0, max<i64>(ttlMs, 0), out);
    return done(out);
  }
  export function set(name: string, value: string, ttlMs: i64 = -1): bool {
    return setBytes(name, encoded(value), ttlMs);
  }
  export function setInteger(name: string, value: i64): bool {
    return set(name, value.toString());
  }
  export function remove(name: string): bool {
    const n = Out.text(name), out = take(16);
    hostStateDelete(n.ptr, n.len, out);
    return done(out);
  }
  /** Names with a prefix after `after`, ascending, at most 1000. */
  export function list(prefix: string = "", after: string = ""): string[] {
    const p = Out.text(prefix), a = Out.text(after), out = take(8);
    hostStateList(p.ptr, p.len, after.length ? 1 : 0, a.ptr, a.len, 1000, out);
    return names(out);
  }
}

/** State across keys: answers in queries only. */
export namespace keys {
  export function list(prefix: string = "", after: string = ""): string[] {
    const p = Out.text(prefix), a = Out.text(after), out = take(8);
    hostKeysList(p.ptr, p.len, after.length ? 1 : 0, a.ptr, a.len, 1000, out);
    return names(out);
  }
  export function get(key: string, name: string): string | null {
    const k = Out.text(key), n = Out.text(name), out = take(12);
    hostKeysGet(k.ptr, k.len, n.ptr, n.len, out);
    const value = maybe(out);
    return value ? String.UTF8.decodeUnsafe(value.dataStart, value.byteLength) : null;
  }
}

/** Durable timers of this plugin and key; they come back as `tidegate.timer`. */
export namespace timers {
  /** Sets or replaces. `dueMs` is absolute. */
  export function set(name: string, dueMs: u64, data: string = ""): bool {
    const n = Out.text(name), d = Out.text(data), out = take(16);
    hostTimerSet(n.ptr, n.len, dueMs, d.ptr, d.len, out);
    return done(out);
  }
  export function cancel(name: string): bool {
    const n = Out.text(name), out = take(16);
    hostTimerCancel(n.ptr, n.len, out);
    return done(out);
  }
}

/** A request to the outside, sent once the delivery is durable. Its answer comes back as an event
 * `tidegate.response`, with the attributes `callname` and `callstatus`. */
export class Call {
  method: string = "POST";
  /** `{secret:NAME}` in a value is filled in by the host. */
  headers: Map<string, string> = new Map();
  body: Uint8Array = new Uint8Array(0);
  /** For one attempt, at most 60,000. */
  timeoutMs: u32 = 10_000;
  /** `url` is absolute, to a host that the manifest is granted. */
  constructor(public name: string, public url: string) {}
  /** A body of JSON, as text. */
  json(text: string): void {
    this.headers.set("content-type", "application/json");
    this.body = encoded(text);
  }
}

export namespace calls {
  export function send(call: Call): bool {
    const name = Out.text(call.name), method = Out.text(call.method), url = Out.text(call.url);
    const headers = Pairs.of(call.headers), body = Out.bytes(call.body), out = take(20);
    hostCall(
      name.ptr, name.len, method.ptr, method.len, url.ptr, url.len, headers.ptr, headers.len,
      body.ptr, body.len, call.timeoutMs, out,
    );
    return done(out);
  }
}

// ---- What a delivery may know -----------------------------------------------------------------

function said(value: Uint8Array | null): string | null {
  return value ? String.UTF8.decodeUnsafe(value.dataStart, value.byteLength) : null;
}

/** A further CloudEvents attribute of the input. */
export function attribute(name: string): string | null {
  const n = Out.text(name), out = take(12);
  hostAttribute(n.ptr, n.len, out);
  return said(maybe(out));
}
/** All of them. */
export function attributes(): Map<string, string> {
  const out = take(8);
  hostAttributes(out);
  return Pairs.at(load<usize>(out), load<usize>(out, 4));
}
/** A string of `[config]` in the manifest. */
export function config(name: string): string | null {
  const n = Out.text(name), out = take(12);
  hostConfig(n.ptr, n.len, out);
  return said(maybe(out));
}
/** When the log took the input; stands still during a delivery. */
export function nowMs(): u64 {
  return hostNow();
}
/** From 1. */
export function attempt(): u32 {
  return hostAttempt();
}
/** Whether the input comes from a redriven dead letter. */
export function redriven(): bool {
  return hostRedriven() != 0;
}
/** The same in a replay. Not for secrets. */
export function random(): u64 {
  return hostRandom();
}

export enum Level { trace, debug, info, warn, error }

/** The plugin's log. */
export function log(level: Level, message: string): void {
  const m = Out.text(message);
  hostLog(<i32>level, m.ptr, m.len);
}

// ---- JSON -------------------------------------------------------------------------------------

/** A JSON value, read in place: nothing is built but what is asked for. */
export class Json {
  constructor(public text: string) {}

  /** A field of an object; of fields of fields: "customer.city". Null: not there. */
  field(path: string): Json | null {
    let value: Json = this;
    const steps = path.split(".");
    for (let i = 0; i < steps.length; i++) {
      const found = value.member(steps[i]);
      if (!found) return null;
      value = found;
    }
    return value;
  }
  /** The whole part of a number; `otherwise` where there is none, or it is too large. */
  integer(path: string, otherwise: i64 = 0): i64 {
    const found = this.field(path);
    return found && found.isNumber() ? whole(found.text, otherwise) : otherwise;
  }
  number(path: string, otherwise: f64 = 0): f64 {
    const found = this.field(path);
    return found && found.isNumber() ? F64.parseFloat(found.text) : otherwise;
  }
  boolean(path: string, otherwise: bool = false): bool {
    const found = this.field(path);
    if (!found) return otherwise;
    return found.text == "true" ? true : found.text == "false" ? false : otherwise;
  }
  /** A string, unescaped. */
  string(path: string, otherwise: string = ""): string {
    const found = this.field(path);
    return found && found.text.charCodeAt(0) == 0x22 ? unescape(found.text) : otherwise;
  }
  has(path: string): bool {
    return this.field(path) != null;
  }

  private isNumber(): bool {
    const first = this.text.charCodeAt(0);
    return first == 0x2d || (first >= 0x30 && first <= 0x39);
  }

  // Of a name that is there twice the last counts, as for other readers.
  private member(name: string): Json | null {
    const text = this.text;
    let last: Json | null = null;
    let i = space(text, 0);
    if (text.charCodeAt(i) != 0x7b) return null;
    i = space(text, i + 1);
    while (i < text.length && text.charCodeAt(i) == 0x22) {
      let end = stringEnd(text, i);
      if (end < 0) return null;
      const named = unescape(text.substring(i, end)) == name;
      i = space(text, end);
      if (text.charCodeAt(i) != 0x3a) return null;
      i = space(text, i + 1);
      end = valueEnd(text, i);
      if (end < 0) return null;
      if (named) last = new Json(text.substring(i, end));
      i = space(text, end);
      if (text.charCodeAt(i) != 0x2c) break;
      i = space(text, i + 1);
    }
    return text.charCodeAt(i) == 0x7d ? last : null;
  }
}

// The whole part of a number, however it is written: 40, 40.9, 4e1. Beyond 2^53 digits alone will do.
function whole(text: string, otherwise: i64): i64 {
  const plain = I64.parseInt(text);
  if (plain.toString() == text) return plain;
  const value = F64.parseFloat(text);
  return Math.abs(value) <= 9007199254740992.0 ? <i64>value : otherwise;
}

/** A text as JSON. */
export function quoted(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c == 0x22 || c == 0x5c) out += "\\" + text.charAt(i);
    else if (c < 0x20) out += "\\u00" + (c < 16 ? "0" : "") + c.toString(16);
    else out += text.charAt(i);
  }
  return out + '"';
}

function space(text: string, at: i32): i32 {
  while (at < text.length) {
    const c = text.charCodeAt(at);
    if (c != 0x20 && c != 0x0a && c != 0x09 && c != 0x0d) break;
    at++;
  }
  return at;
}

function stringEnd(text: string, at: i32): i32 {
  for (at++; at < text.length; at++) {
    const c = text.charCodeAt(at);
    if (c == 0x5c) at++;
    else if (c == 0x22) return at + 1;
  }
  return -1;
}

function valueEnd(text: string, at: i32): i32 {
  let depth = 0;
  while (at < text.length) {
    const c = text.charCodeAt(at);
    if (c == 0x22) {
      at = stringEnd(text, at);
      if (at < 0 || depth == 0) return at;
      continue;
    }
    if (c == 0x7b || c == 0x5b) depth++;
    else if (c == 0x7d || c == 0x5d) {
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    } else if (depth == 0 && (c == 0x2c || c == 0x20 || c == 0x0a || c == 0x09 || c == 0x0d)) {
      return at;
    }
    at++;
  }
  return depth == 0 ? at : -1;
}

function unescape(text: string): string {
  let out = "";
  for (let i = 1; i < text.length - 1; i++) {
    let c = text.charCodeAt(i);
    if (c != 0x5c) {
      out += String.fromCharCode(c);
      continue;
    }
    c = text.charCodeAt(++i);
    if (c == 0x75) {
      out += String.fromCharCode(<i32>U32.parseInt(text.substring(i + 1, i + 5), 16));
      i += 4;
    } else if (c == 0x6e) out += "\n";
    else if (c == 0x74) out += "\t";
    else if (c == 0x72) out += "\r";
    else if (c == 0x62) out += "\b";
    else if (c == 0x66) out += "\f";
    else out += String.fromCharCode(c);
  }
  return out;
}
