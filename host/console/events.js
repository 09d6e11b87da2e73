// Events of a bus, as they are and as they come, and one of them with its causes and consequences.

import * as api from "./api.js";
import { facts, field, h, input, link, page, time, titled } from "./dom.js";
import { elements, member, reindent } from "./json.js";
import { failed } from "./shell.js";

/** Events a page. */
const PAGE = 50;
/** Rows that are kept while new ones come. */
const FOLLOWED_MAX = 500;
/** Characters of data in a row. */
const SHOWN_MAX = 160;
/** Characters of data that an address carries to the form for publishing. */
const EDITED_MAX = 10_000;
const FILTERS = ["bus", "type", "key", "source", "id", "from", "to"];
const COLUMNS = ["Position", "Recorded", "Type", "Key", "Source", "Data"];
/** Attributes with a place of their own. */
const SHOWN = ["specversion", "id", "source", "type", "subject", "time", "partitionkey", "datacontenttype", "data", "data_base64",
  "tidegateposition", "tidegatesequence", "tidegaterecorded"];

export function events(parameters, signal) {
  const query = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const rows = h("tbody");
  const head = h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col" }, name))));
  const more = h("div", { class: "row" });
  const none = h("p", { class: "none" });
  const list = { query, rows, more, none, signal };
  if (parameters.has("follow")) {
    follow(list);
  } else {
    newest(query, signal).then((first) => (first ? latest(list, first) : ascending(list))).catch(failed);
  }
  return [h("h1", {}, "Events"), filters(query, parameters.has("follow")),
    h("div", { class: "scroll" }, h("table", {}, head, rows)), none, more];
}

function filters(query, following) {
  const placeholders = { bus: "the default one", type: "order.*", from: "position or time", to: "position or time" };
  const fields = FILTERS.map((name) => field(titled(name), input(name, query[name], { placeholder: placeholders[name] })));
  const box = h("input", { type: "checkbox", name: "follow", value: "1", checked: following });
  const form = h("form", { class: "row", onsubmit: (submitted) => {
    submitted.preventDefault();
    location.hash = page("events", Object.fromEntries(new FormData(form)));
  } }, fields, h("label", { class: "check" }, box, "follow new ones"), h("button", {}, "Show"));
  return form;
}

/** The last position, where nothing was asked for but a bus: the newest events are shown then. */
async function newest(query, signal) {
  if (FILTERS.some((name) => name !== "bus" && query[name])) return undefined;
  const { buses } = await api.json("v1/buses", {}, signal);
  return buses.find((bus) => (query.bus ? bus.name === query.bus : bus.default))?.last_position;
}

/** The events up to a position, the newest first. */
async function latest(list, to) {
  const from = Math.max(1, to - PAGE + 1);
  const { batch } = await api.events({ ...list.query, from, to, limit: PAGE }, list.signal);
  list.rows.append(...elements(batch).reverse().map((text) => row(text, list.query.bus)));
  const older = h("button", { type: "button", onclick: () => latest(list, from - 1).catch(failed) }, "Older");
  list.more.replaceChildren(...(from > 1 ? [older] : []));
}

/** What the filters let through, the oldest first. */
async function ascending(list, cursor) {
  const { batch, next } = await api.events({ ...list.query, cursor, limit: PAGE }, list.signal);
  list.rows.append(...elements(batch).map((text) => row(text, list.query.bus)));
  list.none.textContent = list.rows.children.length > 0 ? "" : next ? "None so far." : "No such events.";
  const more = h("button", { type: "button", onclick: () => ascending(list, next).catch(failed) }, "More");
  list.more.replaceChildren(...(next ? [more] : []));
}

async function follow({ query, rows, none, signal }) {
  none.textContent = "New events are shown as they come.";
  try {
    for await (const text of api.stream("v1/events/stream", query, signal)) {
      rows.prepend(row(text, query.bus));
      if (rows.children.length > FOLLOWED_MAX) rows.lastChild.remove();
    }
  } catch (error) {
    failed(error);
  }
}

/** What orders an event. */
const keyOf = (event) => event.partitionkey ?? event.subject;

function row(text, bus) {
  const event = JSON.parse(text);
  const data = raw(text, event).text;
  const shown = data.length > SHOWN_MAX ? `${data.slice(0, SHOWN_MAX)}...` : data;
  const key = keyOf(event);
  const cells = [
    link(`#${event.tidegateposition}`, "event", { bus, position: event.tidegateposition }), time(event.tidegaterecorded), event.type,
    key === undefined ? "" : link(key, "events", { bus, key }), event.source, h("code", {}, shown),
  ];
  return h("tr", {}, cells.map((cell) => h("td", { class: "text" }, cell ?? "")));
}

/** The data of an event as it was stored, and whether it is JSON. */
function raw(text, event) {
  if (event.data_base64 !== undefined) return { text: event.data_base64, base64: true };
  const data = member(text, "data");
  if (data === undefined) return { text: "" };
  const type = event.datacontenttype ?? "application/json";
  if (/^[^;]*[/+]json\s*(;|$)/i.test(type)) return { text: data, json: true };
  return { text: typeof event.data === "string" ? event.data : data };
}

/** An event as the host writes it: its attributes and its data. */
export function described(text) {
  const event = JSON.parse(text);
  const data = raw(text, event);
  const others = Object.entries(event).filter(([name]) => !SHOWN.includes(name));
  const body = data.json ? reindent(data.text) : data.text;
  return [
    facts([
      ["Type", event.type], ["Key", keyOf(event)], ["Number within its key", event.tidegatesequence],
      ["Source", event.source], ["Id", h("code", {}, event.id)], ["Subject", event.subject],
      ["Recorded", time(event.tidegaterecorded)], ["Time", time(event.time)], ["Content type", event.datacontenttype],
      ...others.map(([name, value]) => [h("code", {}, name), String(value)]),
    ]),
    h("h2", {}, data.base64 ? "Data, in base64" : "Data"), body === "" ? h("p", { class: "none" }, "None.") : h("pre", {}, body),
  ];
}

export function event(parameters, signal) {
  const bus = parameters.get("bus") ?? "";
  const position = parameters.get("position") ?? "";
  const about = h("div");
  const tree = h("div");
  const show = async () => {
    const text = await api.text(api.path(["v1/events/", ""], position), { bus }, signal);
    about.append(...described(text), again(text, bus));
    const found = await api.json(api.path(["v1/events/", "/tree"], position), { bus }, signal);
    tree.append(h("h2", {}, "Causes and consequences"), drawTree(found, bus),
      found.truncated ? h("p", { class: "quiet" }, "There are more.") : "");
  };
  show().catch(failed);
  return [h("h1", {}, `Event #${position}`), about, tree];
}

/** A way to publish it again, changed or not, where its data can be written into a form. */
function again(text, bus) {
  const event = JSON.parse(text);
  const data = raw(text, event);
  if (!data.json || data.text.length > EDITED_MAX) return "";
  const parameters = { bus, type: event.type, key: keyOf(event), schemaversion: event.schemaversion, data: data.text };
  return h("p", {}, link("Publish one like it", "publish", parameters));
}

/** Every event stands under the one that caused it. */
function drawTree({ position, events: all }, bus) {
  const places = new Map();
  const root = h("ul", { class: "tree" });
  for (const one of all) {
    const parent = places.get(one.cause) ?? root;
    const here = one.position === position && (!bus || one.bus === bus);
    const item = h("li", {},
      h("span", { class: here ? "here" : undefined },
        link(`#${one.position}`, "event", { bus: one.bus, position: one.position }), ` ${one.type}`),
      one.key === undefined ? "" : [" ", link(one.key, "events", { bus: one.bus, key: one.key })],
      h("span", { class: "quiet" }, one.emitter ? " by " : ` from ${one.source}`),
      one.emitter ? link(one.emitter, "plugin", { name: one.emitter }) : "");
    const below = h("ul");
    item.append(below);
    parent.append(item);
    places.set(one.position, below);
  }
  return root;
}
