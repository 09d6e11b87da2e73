// One event by hand.

import { post } from "./api.js";
import { field, h, input, link } from "./dom.js";
import { act, notice } from "./shell.js";

export function publish(parameters) {
  const data = h("textarea", { name: "data", spellcheck: "false", "aria-label": "Data, as JSON" });
  data.value = parameters.get("data") ?? "{}";
  const result = h("p");
  const form = h("form", { onsubmit: (submitted) => {
    submitted.preventDefault();
    send(new FormData(form), result);
  } },
  h("div", { class: "row" },
    field("Type", input("type", parameters.get("type") ?? "", { required: true, placeholder: "order.created" })),
    field("Key", input("key", parameters.get("key") ?? "")),
    field("Source", input("source", "/console", { required: true })),
    field("Id", input("id", "", { placeholder: "a new one" })),
    field("Schema version", input("schemaversion", parameters.get("schemaversion") ?? "", { placeholder: "none" })),
    field("Bus", input("bus", parameters.get("bus") ?? "", { placeholder: "the default one" }))),
  field("Data, as JSON; stored as it is written here", data),
  h("div", { class: "row" }, h("button", {}, "Publish")));
  return [h("h1", {}, "Publish"), form, result];
}

async function send(given, result) {
  const attributes = {
    specversion: "1.0", id: given.get("id") || uuid(), source: given.get("source"), type: given.get("type"),
    partitionkey: given.get("key") || undefined, datacontenttype: "application/json",
    schemaversion: given.get("schemaversion") || undefined,
  };
  // The data goes as it was written: read and written again, a number may be another one.
  const data = given.get("data").trim();
  try {
    if (data) JSON.parse(data);
  } catch (error) {
    notice(`the data is no JSON: ${error.message}`, "bad");
    return;
  }
  const body = data ? `${JSON.stringify(attributes).slice(0, -1)},"data":${data}}` : JSON.stringify(attributes);
  const headers = { "content-type": "application/cloudevents+json" };
  const bus = given.get("bus");
  const say = ([one]) => (one.duplicate ? `It was there already, as #${one.position}.` : `Durable as #${one.position}.`);
  const answer = await act(() => post("v1/events", { bus }, { headers, body }), say);
  if (answer) result.replaceChildren(link(`Event #${answer[0].position}`, "event", { bus, position: answer[0].position }));
}

/** RFC 9562, version 4; `crypto.randomUUID` is not there on a page without TLS. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
