// Tells what happens in a repository in one piece: GitHub's webhooks of the same key are collected, and
// some time after the first of them `digest.ready` is emitted with a line for each.
//
// Teaches: JavaScript with the SDK, one handler for a family of types, state that is put together over
// many events, a timer that ends it.
import { config, emit, handlers, nowMs, reject, state, timers } from './tidegate.js';

/** What is said of the types people care about; of others, their type and who did it. */
const SAID = {
  'github.push': (d) => `pushed ${counted(d.commits.length, 'commit')} to ${branch(d.ref)}`,
  'github.create': (d) => `created ${d.ref_type} ${d.ref}`,
  'github.delete': (d) => `deleted ${d.ref_type} ${d.ref}`,
  'github.pull_request.opened': (d) => `opened #${d.number}: ${d.pull_request.title}`,
  'github.pull_request.closed': (d) =>
    `${d.pull_request.merged ? 'merged' : 'closed'} #${d.number}: ${d.pull_request.title}`,
  'github.issues.opened': (d) => `reported #${d.issue.number}: ${d.issue.title}`,
  'github.release.published': (d) => `released ${d.release.tag_name}`,
  'github.star.created': () => 'gave a star',
};

const branch = (ref) => ref.replace(/^refs\/(heads|tags)\//, '');
const counted = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;

/** A whole number from 1 of the configuration. */
function number(name, otherwise) {
  const value = Number(config(name) ?? otherwise);
  if (!Number.isInteger(value) || value < 1) throw reject(`[config] ${name} is no whole number from 1`);
  return value;
}

function line(event) {
  const data = event.json();
  const who = data.sender?.login ?? 'somebody';
  const said = SAID[event.type]?.(data);
  return `${who} ${said ?? event.type.replace(/^github\./, '').replaceAll(/[._]/g, ' ')}`;
}

function collect(event) {
  if (event.key === null) throw reject('no repository: publish it with a key');
  const digest = state.get('digest') ?? { since: nowMs(), lines: [], more: 0 };
  if (digest.lines.length === 0) timers.after('digest', number('minutes', 60) * 60_000);
  if (digest.lines.length < number('lines', 20)) digest.lines.push(line(event));
  else digest.more++;
  state.set('digest', digest);
}

function send(event) {
  const digest = state.get('digest');
  if (!digest) return;
  state.delete('digest');
  emit('digest.ready', { repository: event.key, ...digest });
}

export const handler = handlers({ 'github.**': collect }, { timers: { digest: send } });
