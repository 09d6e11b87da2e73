// Buses, plugins, and how far each has come.

import { json } from "./api.js";
import { bytes, count, facts, h, link, spark, state, table, time } from "./dom.js";
import { live } from "./shell.js";

const EVERY_MS = 2000;
/** Values of a line: two minutes. */
const KEPT = 60;

export function overview(parameters, signal) {
  const rates = new Map();
  const load = async () => {
    const status = await json("v1/status", {}, signal);
    for (const bus of status.buses) note(rates, bus);
    // They count on while nothing else changes.
    return { status, rates: [...rates].map(([name, seen]) => [name, seen.values]) };
  };
  return [h("h1", {}, "Overview"), live(signal, EVERY_MS, load, draw)];
}

/** Takes down how many events a second a bus has taken since the last look. */
function note(rates, bus) {
  const now = performance.now();
  const seen = rates.get(bus.name) ?? { values: [] };
  // A host that was started again counts anew.
  if (seen.at !== undefined && bus.appended >= seen.appended) {
    seen.values.push(((bus.appended - seen.appended) * 1000) / (now - seen.at));
    if (seen.values.length > KEPT) seen.values.shift();
  }
  Object.assign(seen, { at: now, appended: bus.appended });
  rates.set(bus.name, seen);
}

function draw({ status, rates }) {
  const parts = [host(status), h("h2", {}, "Buses"), buses(status.buses, new Map(rates)), h("h2", {}, "Plugins"), plugins(status.plugins)];
  if (status.skipped.length > 0) {
    parts.push(h("h2", {}, "Skipped files"), table(["File", "Why"], status.skipped.map((one) => [one.path, one.reason]), ""));
  }
  return parts;
}

function host(status) {
  const word = status.draining ? "draining" : status.ready ? "ready" : "starting";
  return facts([
    ["Host", [h("span", { class: `state ${word === "ready" ? "good" : "warn"}` }, word), ` since `, time(status.started)]],
    ["Waits for", status.waiting_for.join(", ")],
    ["Version", status.version],
    ["Data", h("code", {}, status.data)],
    ["Plugins folder", h("code", {}, status.plugins_folder)],
  ]);
}

function buses(all, rates) {
  const columns = ["Bus", "State", "#Events", "Taken a second", "#On disk", "#Free", "#Segments", "Plugins"];
  const rows = all.map((bus) => {
    const values = rates.get(bus.name) ?? [];
    const now = values.at(-1) ?? 0;
    return [
      [link(bus.name, "events", { bus: bus.name }), h("span", { class: "quiet" }, ` ${bus.kind}${bus.default ? ", default" : ""}`)],
      [state(bus.state), bus.log?.clock_alarm ? h("div", { class: "bad" }, bus.log.clock_alarm) : ""],
      count(bus.last_position),
      h("span", { class: "rate" }, spark(values, `${count(now)} events a second`), count(now)),
      ...(bus.log ? [bytes(bus.log.bytes), bytes(bus.log.free_bytes), count(bus.log.segments)] : ["", "", ""]),
      bus.plugins.map((name, at) => [at > 0 ? ", " : "", link(name, "plugin", { name })]),
    ];
  });
  return table(columns, rows, "No bus.");
}

function plugins(all) {
  const columns = ["Plugin", "State", "#Behind", "#In flight", "#Retrying", "#Parked keys", "#Held keys", "#Dead letters",
    "#Timers", "#Keys", "#State", "#Delivered since start"];
  const trouble = (number, kind) => h("span", { class: number > 0 ? kind : "quiet" }, count(number));
  const rows = all.map((one) => [
    [link(one.name, "plugin", { name: one.name }), h("div", { class: "quiet" }, one.description ?? "")],
    [state(one.state), h("div", { class: "quiet" }, one.reason ?? rewind(one.rewind))],
    trouble(one.lag_events, "warn"), count(one.in_flight + one.waiting), trouble(one.retrying, "warn"),
    trouble(one.parked_keys, "bad"), trouble(one.held_keys, "warn"),
    one.dead_letters > 0 ? link(count(one.dead_letters), "dead-letters", { plugin: one.name }) : trouble(0),
    count(one.timers), count(one.state_keys), bytes(one.state_bytes),
    count(Object.values(one.deliveries).reduce((sum, number) => sum + number, 0)),
  ]);
  return table(columns, rows, "No plugins yet: put a module into the plugins folder, or: tidegate new totals --lang rust");
}

function rewind(one) {
  return one ? `rewinding, at ${count(one.position)} of ${count(one.until)}` : "";
}
