// The conformance handler in JavaScript. What each type asks for: tests/conformance/README.md.
import {
  attempt, attribute, attributes, calls, commands, config, emit, encode, handlers, log, nowMs, queries,
  reject, retry, state, timers, upcasters,
} from './tidegate.js';

export const handler = handlers(
  {
    'conf.echo': (event) => {
      emit('echo.done', event.data, { contentType: event.contentType });
    },
    'conf.emit': (event) => {
      for (let n = 1; n <= event.json().count; n++) {
        emit('emit.done', { n }, { key: `part-${n}`, attributes: { part: n } });
      }
    },
    'conf.state': (event) => {
      const sum = (state.get('sum') ?? 0) + event.json().add;
      state.set('draft', true);
      state.set('sum', sum);
      state.set('last', event.id);
      state.delete('draft');
      emit('state.done', { sum, names: [...state.list()] });
    },
    'conf.retry': () => {
      if (attempt() < 2) throw retry('not yet', 1);
      emit('retry.done', { attempt: attempt() });
    },
    'conf.reject': (event) => {
      state.set('gone', true);
      emit('reject.done');
      throw reject(event.json().why);
    },
    'conf.trap': () => {
      state.set('gone', true);
      undefined.onPurpose();
    },
    'conf.async': async () => {
      state.set('gone', true);
      emit('async.done');
    },
    'conf.fuel': () => {
      for (;;);
    },
    'conf.memory': () => {
      for (const all = []; ; ) all.push(new Uint8Array(1 << 20));
    },
    'conf.unicode': (event) => {
      const { text } = event.json();
      state.set(text, text);
      emit('unicode.done', { text, key: event.key });
    },
    'conf.member': (event) => {
      const { text } = event.json();
      emit('member.done', { [text]: '\\ud83d' }, { attributes: { sure: true } });
    },
    'conf.read': (event) => {
      const { n, z } = event.json();
      emit('read.done', { n, z });
    },
    'conf.attributes': () => {
      const all = attributes();
      const entries = Object.entries(all);
      const bytes = entries.reduce((sum, [n, v]) => sum + encode(n).length + encode(v).length, 0);
      emit('attributes.done', { count: entries.length, bytes }, { attributes: all });
    },
    'conf.timer': () => {
      timers.set('never', nowMs() + 1);
      timers.cancel('never');
      timers.after('later', 1, { n: 7 });
    },
    'conf.past': () => {
      if (attempt() < 2) throw retry('not yet', -1.5);
      state.set('gone', true, { ttlMs: -1.5 });
      timers.set('past', -1.5);
    },
    'conf.nowhere': () => {
      emit('nowhere.done', {}, { key: '' });
    },
    'conf.call': (event) => {
      calls.send({ name: 'ask', url: event.json().url, body: { n: 7 } });
    },
    'conf.config': () => {
      emit('config.done', { greeting: config('greeting'), missing: config('missing') ?? null });
    },
    'conf.log': () => {
      log.trace('one');
      log.debug('two');
      log.info('three');
      log.warn('four');
      log.error('five');
    },
    'conf.old.*': (event) => {
      emit('old.done', event.json());
    },
  },
  {
    timers: {
      later: (event) => {
        emit('timer.done', { name: attribute('timername'), data: event.json(), key: event.key });
      },
      past: () => {
        emit('past.done', { gone: state.get('gone') ?? null });
      },
    },
    responses: {
      ask: () => {
        const status = Number(attribute('callstatus'));
        emit('call.done', { name: attribute('callname'), status });
      },
    },
  },
);

export const command = commands({
  add(request) {
    const sum = (state.get('sum') ?? 0) + request.json().amount;
    state.set('sum', sum);
    emit('add.done', { sum });
    return { sum };
  },
  refuse() {
    state.set('gone', true);
    throw reject('not this one');
  },
});

export const query = queries({
  raw: () => new Uint8Array([0, 255]),
  sum: () => ({ sum: state.get('sum') ?? 0 }),
});

// Amounts in euros become amounts in cents.
const lift = ({ amount }, version) => ({ version: version + 1, data: { cents: amount * 100 } });
export const upcaster = upcasters({ 'conf.old.js': lift });
