// The conformance handler in TypeScript. What each type asks for: tests/conformance/README.md.
import {
  attempt, attribute, attributes, calls, commands, config, emit, encode, handlers, log, nowMs, queries,
  reject, retry, state, timers, upcasters, type Event, type Lifted, type Request,
} from './tidegate.js';

export const handler = handlers(
  {
    'conf.echo': (event: Event): void => {
      emit('echo.done', event.data, { contentType: event.contentType });
    },
    'conf.emit': (event: Event): void => {
      for (let n = 1; n <= event.json<{ count: number }>().count; n++) {
        emit('emit.done', { n }, { key: `part-${n}`, attributes: { part: n } });
      }
    },
    'conf.state': (event: Event): void => {
      const sum = (state.get<number>('sum') ?? 0) + event.json<{ add: number }>().add;
      state.set('draft', true);
      state.set('sum', sum);
      state.set('last', event.id);
      state.delete('draft');
      emit('state.done', { sum, names: [...state.list()] });
    },
    'conf.retry': (): void => {
      if (attempt() < 2) throw retry('not yet', 1);
      emit('retry.done', { attempt: attempt() });
    },
    'conf.reject': (event: Event): void => {
      state.set('gone', true);
      emit('reject.done');
      throw reject(event.json<{ why: string }>().why);
    },
    'conf.trap': (): void => {
      state.set('gone', true);
      const nothing = undefined as unknown as { onPurpose(): void };
      nothing.onPurpose();
    },
    'conf.async': async (): Promise<void> => {
      state.set('gone', true);
      emit('async.done');
    },
    'conf.fuel': (): void => {
      for (;;);
    },
    'conf.memory': (): void => {
      for (const all: Uint8Array[] = []; ; ) all.push(new Uint8Array(1 << 20));
    },
    'conf.unicode': (event: Event): void => {
      const { text } = event.json<{ text: string }>();
      state.set(text, text);
      emit('unicode.done', { text, key: event.key });
    },
    'conf.member': (event: Event): void => {
      const { text } = event.json<{ text: string }>();
      emit('member.done', { [text]: '\\ud83d' }, { attributes: { sure: true } });
    },
    'conf.read': (event: Event): void => {
      const { n, z } = event.json<{ n: number; z: number }>();
      emit('read.done', { n, z });
    },
    'conf.attributes': (): void => {
      const all = attributes();
      const entries = Object.entries(all);
      const bytes = entries.reduce((sum, [n, v]) => sum + encode(n).length + encode(v).length, 0);
      emit('attributes.done', { count: entries.length, bytes }, { attributes: all });
    },
    'conf.timer': (): void => {
      timers.set('never', nowMs() + 1);
      timers.cancel('never');
      timers.after('later', 1, { n: 7 });
    },
    'conf.past': (): void => {
      if (attempt() < 2) throw retry('not yet', -1.5);
      state.set('gone', true, { ttlMs: -1.5 });
      timers.set('past', -1.5);
    },
    'conf.nowhere': (): void => {
      emit('nowhere.done', {}, { key: '' });
    },
    'conf.call': (event: Event): void => {
      calls.send({ name: 'ask', url: event.json<{ url: string }>().url, body: { n: 7 } });
    },
    'conf.config': (): void => {
      emit('config.done', { greeting: config('greeting'), missing: config('missing') ?? null });
    },
    'conf.log': (): void => {
      log.trace('one');
      log.debug('two');
      log.info('three');
      log.warn('four');
      log.error('five');
    },
    'conf.old.*': (event: Event): void => {
      emit('old.done', event.json());
    },
  },
  {
    timers: {
      later: (event: Event): void => {
        emit('timer.done', { name: attribute('timername'), data: event.json(), key: event.key });
      },
      past: (): void => {
        emit('past.done', { gone: state.get('gone') ?? null });
      },
    },
    responses: {
      ask: (): void => {
        const status = Number(attribute('callstatus'));
        emit('call.done', { name: attribute('callname'), status });
      },
    },
  },
);

export const command = commands({
  add(request: Request): { sum: number } {
    const sum = (state.get<number>('sum') ?? 0) + request.json<{ amount: number }>().amount;
    state.set('sum', sum);
    emit('add.done', { sum });
    return { sum };
  },
  refuse(): void {
    state.set('gone', true);
    throw reject('not this one');
  },
});

export const query = queries({
  raw: () => new Uint8Array([0, 255]),
  sum: () => ({ sum: state.get<number>('sum') ?? 0 }),
});

// Amounts in euros become amounts in cents.
const lift = ({ amount }: { amount: number }, version: number): Lifted => ({
  version: version + 1,
  data: { cents: amount * 100 },
});
export const upcaster = upcasters({ 'conf.old.ts': lift });
