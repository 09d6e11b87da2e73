// Elements, and how figures and times read.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. Children that are no nodes become text, and only `on...` attributes are functions:
 * nothing that a guest or a client wrote is ever read as HTML.
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null));
  return element;
}

/** A heading and a table of these rows, or a line that says that there are none. */
export function table(columns, rows, none) {
  if (rows.length === 0) return h("p", { class: "none" }, none);
  const numeric = (column) => (column.startsWith("#") ? "number" : undefined);
  const head = columns.map((c) => h("th", { scope: "col", class: numeric(c) }, c.replace(/^#/, "")));
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, at) => h("td", { class: numeric(columns[at]) ?? "text" }, cell ?? ""))));
  const whole = h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  return h("div", { class: "scroll" }, whole);
}

/** Names and values; values that are absent or empty are left out. */
export function facts(pairs) {
  const present = pairs.filter(([, value]) => value !== undefined && value !== null && value.length !== 0);
  return h("dl", {}, present.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** A form field with its label. */
export function field(label, input) {
  return h("label", {}, label, input);
}

export function input(name, value = "", attributes = {}) {
  const made = h("input", { name, autocomplete: "off", spellcheck: "false", ...attributes });
  made.value = value;
  return made;
}

/** A name as a label begins. */
export function titled(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** A line of the last values of a figure. */
export function spark(values, label) {
  const svg = document.createElementNS(SVG, "svg");
  const max = Math.max(1, ...values);
  const points = values.map((value, x) => `${x},${(20 - (18 * value) / max).toFixed(1)}`);
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, values.length - 1)} 22`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function count(number) {
  return GROUPED.format(number);
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = number;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${GROUPED.format(left)} ${units[unit]}`;
}

/** A time as it is, and on hovering in the zone of whoever looks. */
export function time(text) {
  if (!text) return undefined;
  return h("time", { datetime: text, title: new Date(text).toLocaleString() }, text.replace("T", " "));
}

/** A value of state as it was stored: text, or base64 of what is none. */
export function stored(value) {
  return h("code", {}, value.value ?? value.value_base64 ?? `${count(value.bytes)} bytes`);
}

const STATES = { live: "good", ok: "good", open: "good", refused: "bad", storage_full: "bad", parked: "bad",
  trap: "bad", reject: "bad", timeout: "bad", fuel: "bad", error: "bad" };

/** The name of a state, in the colour of what it means. */
export function state(name) {
  return h("span", { class: `state ${STATES[name] ?? "warn"}` }, name);
}

/** The address of a page: names are free text, and travel as parameters. */
export function page(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return query ? `#/${path}?${query}` : `#/${path}`;
}

export function link(text, path, parameters) {
  return h("a", { href: page(path, parameters) }, text);
}
