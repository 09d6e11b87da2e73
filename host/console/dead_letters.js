// Deliveries that were given up: why, and what becomes of them.

import * as api from "./api.js";
import { count, facts, field, h, input, link, page, state, stored, table, time, titled } from "./dom.js";
import { described } from "./events.js";
import { member } from "./json.js";
import { act, ask, failed } from "./shell.js";

const PAGE = 100;
const FILTERS = ["plugin", "key", "outcome"];
const COLUMNS = ["Id", "Given up", "Plugin", "Event", "Key", "Outcome", "Why", "#Attempts"];

export function deadLetters(parameters, signal) {
  const query = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const list = h("div");
  const show = () => load(list, query, signal).catch(failed);
  const form = h("form", { class: "row", onsubmit: (submitted) => {
    submitted.preventDefault();
    location.hash = page("dead-letters", Object.fromEntries(new FormData(form)));
  } }, FILTERS.map((name) => field(titled(name), input(name, query[name]))), h("button", {}, "Show"));
  show();
  return [h("h1", {}, "Dead letters"), form, actions(query, show), list];
}

/** Every page of them so far, below one another. */
async function load(list, query, signal) {
  const all = [];
  const more = async (cursor) => {
    const found = await api.json("v1/dead-letters", { ...query, cursor, limit: PAGE }, signal);
    all.push(...found.dead_letters);
    const next = h("button", { type: "button", onclick: () => more(found.next).catch(failed) }, "More");
    list.replaceChildren(table(COLUMNS, all.map(row), "None."), ...(found.next ? [h("div", { class: "row" }, next)] : []));
  };
  await more();
}

function row(one) {
  return [
    link(one.id, "dead-letter", { id: one.id }), time(one.given_up), link(one.plugin, "plugin", { name: one.plugin }),
    [link(`#${one.position}`, "event", { bus: one.bus, position: one.position }), ` ${one.type}`],
    one.key === undefined ? "" : link(one.key, "plugin", { name: one.plugin, key: one.key }),
    [state(one.outcome), h("div", { class: "bad" }, one.parked ? "key parked" : ""), h("div", { class: "warn" }, one.redriving ? "redriving" : "")],
    one.reason, count(one.attempts),
  ];
}

/** What can be done to all that these filters let through; without any, to all there are. */
function actions(query, done) {
  const chosen = FILTERS.filter((name) => query[name]);
  const which = chosen.length === 0 ? { all: "true" } : Object.fromEntries(chosen.map((name) => [name, query[name]]));
  const words = ["all dead letters", chosen.map((name) => `${name} "${query[name]}"`).join(", ")].filter((part) => part).join(" of ");
  const redrive = async () => {
    if (!await ask(`Redrive ${words}? Each is delivered again, in the order of its key.`, "Redrive")) return;
    await act(() => api.post("v1/dead-letters/redrive", which), said("redriven"));
    done();
  };
  const discard = async () => {
    const reason = field("Reason, which the log keeps", input("reason", "", { required: true }));
    const answer = await ask(`Discard ${words}? They are given up for good; parked keys go on without them.`, "Discard", [reason]);
    if (!answer) return;
    await act(() => api.post("v1/dead-letters/discard", { ...which, reason: answer.reason }), said("discarded"));
    done();
  };
  const label = chosen.length === 0 ? "all" : "these";
  return h("div", { class: "row" },
    h("button", { type: "button", onclick: redrive }, `Redrive ${label}`),
    h("button", { type: "button", class: "danger", onclick: discard }, `Discard ${label}`));
}

function said(what) {
  return (answer) => {
    if (answer.left === 0) return `${count(answer.count)} ${what}`;
    const examples = answer.examples.map((one) => `${one.id} ${one.reason}`);
    return `${count(answer.count)} ${what}, ${count(answer.left)} left: ${examples.join("; ")}`;
  };
}

export function deadLetter(parameters, signal) {
  const id = parameters.get("id") ?? "";
  const about = h("div");
  const show = async () => {
    const text = await api.text(api.path(["v1/dead-letters/", ""], id), {}, signal);
    about.replaceChildren(...draw(JSON.parse(text), member(text, "event")).flat());
  };
  show().catch(failed);
  const buttons = [
    h("button", { type: "button", onclick: () => redrive() }, "Redrive"),
    h("button", { type: "button", class: "danger", onclick: () => discard() }, "Discard"),
  ];
  // It is on its way, or gone: there is nothing left to do about it.
  const done = (answer) => {
    for (const button of buttons) button.disabled = answer?.count > 0;
  };
  const redrive = async () => {
    done(await act(() => api.post("v1/dead-letters/redrive", { id }), said("redriven")));
  };
  const discard = async () => {
    const reason = field("Reason, which the log keeps", input("reason", "", { required: true }));
    const answer = await ask("Discard this dead letter? It is given up for good; a parked key goes on without it.", "Discard", [reason]);
    if (answer) done(await act(() => api.post("v1/dead-letters/discard", { id, reason: answer.reason }), said("discarded")));
  };
  return [h("h1", {}, `Dead letter ${id}`), h("div", { class: "row" }, buttons), about];
}

function draw(one, event) {
  const parts = [
    facts([
      ["Plugin", link(one.plugin, "plugin", { name: one.plugin })],
      ["Event", [link(`#${one.position}`, "event", { bus: one.bus, position: one.position }), ` ${one.type} on ${one.bus}`]],
      ["Key", one.key === undefined ? undefined : link(one.key, "plugin", { name: one.plugin, key: one.key })],
      ["Outcome", state(one.outcome)], ["Why", one.reason],
      ["Given up", time(one.given_up)], ["First attempt", time(one.first_attempt)],
      ["Attempts", one.tried.map((tried) => h("div", {}, `${tried.attempt} `, state(tried.outcome), " ", time(tried.at)))],
      ["Key parked", one.parked ? "yes: its later events wait" : "no"], ["Being redriven", one.redriving ? "yes" : undefined],
      ["Module", h("code", {}, one.module)],
    ]),
  ];
  if (one.backtrace) parts.push(h("h2", {}, "Backtrace"), h("pre", {}, one.backtrace));
  if (one.logs?.length > 0) {
    const lines = one.logs.map((line) => [time(line.at), line.level, line.message]);
    parts.push(h("h2", {}, "What it logged"), table(["At", "Level", "Message"], lines, ""));
  }
  if (one.state?.length > 0) {
    const values = one.state.map((value) => [value.name, stored(value)]);
    parts.push(h("h2", {}, "State of the key before it"), table(["Name", "Value"], values, ""));
  }
  if (event !== undefined && event !== "null") parts.push(h("h2", {}, "The event"), described(event));
  return parts;
}
