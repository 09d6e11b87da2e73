// Types of tidegate.js: what each name does stands there.

/** Anything JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
/** JSON, or bytes as they are. */
export type Data = unknown | Uint8Array;

export function encode(text: string): Uint8Array;
export function decode(bytes: Uint8Array): string;

export class Failure extends Error {
  readonly tag: 'retry' | 'reject';
  readonly afterMs?: number | null;
}
export function reject(reason: string): Failure;
export function retry(reason: string, afterMs?: number): Failure;

export class EffectError extends Error {
  readonly code: 'exceeded' | 'invalid' | 'unkeyed' | 'denied' | 'read-only' | 'other';
  readonly detail?: string;
}

interface Body {
  /** Media type of `data`; empty: none. */
  readonly contentType: string;
  /** The data as it came. */
  readonly data: Uint8Array;
  /** The data as JSON. Data that is none rejects the delivery. */
  json<T = any>(): T;
  text(): string;
}

/** One CloudEvents 1.0 event. */
export interface Event extends Body {
  readonly id: string;
  readonly source: string;
  /** Past tense, dotted: `order.created`. */
  readonly type: string;
  /** What orders events; null: unkeyed. */
  readonly key: string | null;
  /** Number in the log of its bus. */
  readonly position: number;
  /** Number within its key, from 1; 0: unkeyed or private. */
  readonly sequence: number;
  /** When it happened, as its source says. */
  readonly timeMs: number | null;
  /** When the log took it. */
  readonly recordedMs: number;
}

/** A command or a question. */
export interface Request extends Body {
  readonly operation: string;
  readonly key: string | null;
  /** Who asks, as authenticated; empty: nobody in particular. */
  readonly principal: string;
  /** Parameters. */
  readonly params: Record<string, string>;
}

export type Handler = (event: Event) => void;
export type Answerer = (request: Request) => Data | void;

export interface Returns {
  /** By name of the timer; `*`: all others. */
  timers?: Record<string, Handler>;
  /** By name of the call; `*`: all others. */
  responses?: Record<string, Handler>;
}

export function handlers(
  byType: Record<string, Handler>,
  returns?: Returns,
): { handle(event: unknown): void };
export function commands(byName: Record<string, Answerer>): { execute(request: unknown): unknown };
export function queries(byName: Record<string, Answerer>): { read(request: unknown): unknown };

export interface Lifted {
  /** Higher than before. */
  version: number;
  data: Data;
  contentType?: string;
}
export function upcasters(
  byType: Record<string, (data: any, version: number, event: Event) => Lifted>,
): { upcast(event: unknown, version: number): unknown };

export function matches(pattern: string, type: string): boolean;

export interface EmitOptions {
  key?: string;
  bus?: string;
  contentType?: string;
  attributes?: Record<string, string | number | boolean>;
}
export function emit(type: string, data?: Data, options?: EmitOptions): string;

export const state: {
  get<T = any>(name: string): T | undefined;
  bytes(name: string): Uint8Array | undefined;
  set(name: string, value: Data, options?: { ttlMs?: number }): void;
  delete(name: string): void;
  list(prefix?: string): Generator<string>;
};

export const keys: {
  list(prefix?: string): Generator<string>;
  get<T = any>(key: string, name: string): T | undefined;
};

export const timers: {
  set(name: string, dueMs: number, data?: Data): void;
  after(name: string, ms: number, data?: Data): void;
  cancel(name: string): void;
};

export interface Call {
  /** Comes back with the answer. */
  name: string;
  method?: string;
  /** Absolute, to a granted host. */
  url: string;
  /** `{secret:NAME}` in a value is filled in by the host. */
  headers?: Record<string, string>;
  body?: Data;
  /** For one attempt, at most 60,000. */
  timeoutMs?: number;
}
export const calls: { send(call: Call): string };

export function attribute(name: string): string | undefined;
export function attributes(): Record<string, string>;
export function config(name: string): string | undefined;
export function nowMs(): number;
export function attempt(): number;
export function redriven(): boolean;
export function random(): number;

type Say = (...parts: unknown[]) => void;
export const log: { trace: Say; debug: Say; info: Say; warn: Say; error: Say };
