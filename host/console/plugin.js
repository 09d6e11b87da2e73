// One plugin: how it does, what it keeps, what it says, and what can be done about it.

import * as api from "./api.js";
import { bytes, count, facts, field, h, input, link, page, state, stored, table, time } from "./dom.js";
import { act, ask, failed, live } from "./shell.js";

const EVERY_MS = 2000;
/** Log lines that are kept. */
const LINES_MAX = 500;
/** Timers that are shown. */
const TIMERS_MAX = 50;

export function plugin(parameters, signal) {
  const name = parameters.get("name") ?? "";
  const manifest = h("pre");
  const about = live(signal, EVERY_MS, () => api.json(api.path(["v1/plugins/", ""], name), {}, signal), (one) => {
    manifest.textContent = one.manifest ?? "It has not been read yet.";
    return draw(one);
  });
  const log = h("div", { class: "log", tabindex: "0", role: "log", "aria-label": "Log lines" });
  follow(log, name, signal);
  const load = () => api.json(api.path(["v1/plugins/", "/timers"], name), { limit: TIMERS_MAX }, signal);
  return [
    h("h1", {}, name), actions(name, about), about,
    h("details", {}, h("summary", {}, "Manifest, with every default"), manifest),
    h("h2", {}, "Keys"), ...keys(name, parameters, signal),
    h("h2", {}, "Timers"), live(signal, 2 * EVERY_MS, load, timers),
    h("h2", {}, "Log"), log,
  ];
}

function actions(name, about) {
  const send = async (what, query, done) => {
    await act(() => api.post(api.path(["v1/plugins/", `/${what}`], name), query), done);
    about.again();
  };
  const button = (label, onclick) => h("button", { type: "button", onclick }, label);
  const pause = async () => {
    const answer = await ask(`Pause ${name}? Its events wait in the log.`, "Pause", [field("Reason", input("reason"))]);
    if (answer) send("pause", { reason: answer.reason }, "paused");
  };
  const rollback = async () => {
    const module = field("Digest of the module; empty: the one before", input("module"));
    const answer = await ask(`Run an earlier module of ${name}?`, "Roll back", [module]);
    if (answer) send("rollback", { module: answer.module }, "rolled back");
  };
  const rewind = async () => {
    const to = field("Position or time from which its events are delivered again; empty: from the beginning", input("to"));
    const answer = await ask(`Rewind ${name}? Its state is made anew; what it emitted before is not emitted twice.`, "Rewind", [to]);
    if (answer) send("rewind", { to: answer.to }, "rewinding");
  };
  return h("div", { class: "row" }, button("Pause", pause), button("Resume", () => send("resume", {}, "resumed")),
    button("Roll back", rollback), button("Rewind", rewind), link("Dead letters", "dead-letters", { plugin: name }));
}

function draw(one) {
  const subscription = one.subscription;
  const parts = [facts([
    ["State", [state(one.state), one.reason ? ` ${one.reason}` : ""]],
    ["What it does", one.description],
    ["Last error", one.last_error ? [time(one.last_error.at), " ", one.last_error.message] : undefined],
    ["Rewind", one.rewind ? `at ${count(one.rewind.position)} of ${count(one.rewind.until)}` : undefined],
    ["Subscribes to", [
      link(subscription.bus, "events", { bus: subscription.bus }), ": ", subscription.types.join(", ") || "every published event",
      subscription.sources.length > 0 ? ` from ${subscription.sources.join(", ")}` : "",
    ]],
    ["Progress", `up to #${count(one.completed_position)}, ${count(one.lag_events)} behind`],
    ["Delivered since start", Object.entries(one.deliveries).map(([outcome, number]) => [state(outcome), ` ${count(number)} `])],
    ["Now", `${count(one.in_flight)} in flight, ${count(one.waiting)} waiting, ${count(one.retrying)} to be tried again`],
    ["Calls to the outside", one.open_calls > 0 ? `${count(one.open_calls)} open` : undefined],
    ["Keys", `${count(one.parked_keys)} parked, ${count(one.held_keys)} held`],
    ["Held back", (one.throttled ?? []).map(heldBack)],
    ["Dead letters", link(count(one.dead_letters), "dead-letters", { plugin: one.name })],
    ["State kept", `${bytes(one.state_bytes)} of ${count(one.state_keys)} keys, ${count(one.timers)} timers`],
    ["Module", module(one.module)],
    ["Exports", one.module?.exports.join(", ")],
    ["Generation", one.generation > 0 ? count(one.generation) : undefined],
  ])];
  const reloads = one.history.map((r) => [time(r.at), state(r.result), h("code", {}, r.digest.slice(0, 12)), r.error ?? r.shadow ?? ""]);
  parts.push(h("h2", {}, "Modules it ran"), table(["At", "Result", "Module", "Why"], reloads, "None so far."));
  return parts;
}

function heldBack({ keys: number, limit, prefix }) {
  return h("div", {}, `${count(number)} keys by ${limit}${prefix ? ` of ${prefix}` : ""}`);
}

function module(one) {
  if (!one) return undefined;
  return [h("code", {}, one.digest), ` ${one.kind}, ${bytes(one.size_bytes)}${one.pinned ? ", pinned" : ""}`];
}

/** A form for a key, and what is known of it. */
function keys(name, parameters, signal) {
  const key = parameters.get("key") ?? "";
  const at = parameters.get("at") ?? "";
  const form = h("form", { class: "row", onsubmit: (submitted) => {
    submitted.preventDefault();
    location.hash = page("plugin", { name, ...Object.fromEntries(new FormData(form)) });
  } }, field("Key", input("key", key, { required: true })),
  field("State at", input("at", at, { placeholder: "now; position or time" })), h("button", {}, "Look up"));
  if (!key) return [form];
  const known = h("div");
  const show = () => lookUp(known, name, { key, at }, signal).catch(failed);
  const send = async (what, query, done) => {
    await act(() => api.post(api.path(["v1/plugins/", `/keys/${what}`], name), { key, ...query }), done);
    show();
  };
  const hold = async () => {
    const answer = await ask(`Hold key "${key}"? Its events wait until it is released.`, "Hold", [field("Reason", input("reason"))]);
    if (answer) send("hold", { reason: answer.reason }, "held");
  };
  show();
  return [form, known, h("div", { class: "row" },
    h("button", { type: "button", onclick: hold }, "Hold"),
    h("button", { type: "button", onclick: () => send("release", {}, "released") }, "Release"))];
}

async function lookUp(known, name, { key, at }, signal) {
  const [{ subscription }, one, kept] = await Promise.all([
    api.json(api.path(["v1/plugins/", ""], name), {}, signal),
    api.json(api.path(["v1/plugins/", "/keys"], name), { key }, signal),
    api.json(api.path(["v1/plugins/", "/state"], name), { key, at }, signal),
  ]);
  const values = kept.values.map((value) => [value.name, stored(value), bytes(value.bytes), time(value.expires)]);
  const bus = subscription.bus;
  known.replaceChildren(
    facts([
      ["Key", key], ["State", [state(one.state), one.reason ? ` ${one.reason}` : ""]],
      ["Since", time(one.since)], ["By", one.actor],
      ["Waits at", one.position === undefined ? undefined : link(`#${one.position}`, "event", { bus, position: one.position })],
      ["Next attempt", time(one.next_attempt)],
      ["Events behind it", one.deferred > 0 ? `${count(one.deferred)}${one.deferred_more ? " or more" : ""}` : undefined],
      ["Dead letter", one.dead_letter ? link(one.dead_letter, "dead-letter", { id: one.dead_letter }) : undefined],
    ]),
    table(["Name", `Value${at ? ` at ${at}` : ""}`, "#Size", "Expires"], values, "No state."),
    kept.next ? h("p", { class: "quiet" }, `There is more, after "${kept.next}": tidegate state list`) : "");
}

function timers({ timers: all, next }) {
  const rows = all.map((one) => [time(one.due), one.name, one.key, one.fired ? `fired at #${one.fired}` : ""]);
  return [table(["Due", "Name", "Key", ""], rows, "None pending."), next ? h("p", { class: "quiet" }, "There are more.") : ""];
}

/** Appends log lines as they come, and stays at the end unless somebody has scrolled away from it. */
async function follow(log, name, signal) {
  try {
    for await (const data of api.stream(api.path(["v1/plugins/", "/logs"], name), { recent: 100 }, signal)) {
      const line = JSON.parse(data);
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
      const where = line.position ? ` #${line.position}${line.key === undefined ? "" : ` ${line.key}`}` : "";
      const kind = { error: "bad", warn: "warn", debug: "quiet", trace: "quiet" }[line.level];
      const when = h("span", { class: "quiet" }, `${line.at}${where} `);
      log.append(h("div", {}, when, h("span", { class: kind }, `${line.level} ${line.message}`)));
      if (log.children.length > LINES_MAX) log.firstChild.remove();
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    failed(error);
  }
}
