// Which types of event there are, and who gets them.

import { json } from "./api.js";
import { count, field, h, input, link, table, time } from "./dom.js";
import { live } from "./shell.js";

export function types(parameters, signal) {
  const bus = parameters.get("bus") ?? "";
  const columns = ["Type", "#Events", "Last seen", "From", "Subscribers"];
  const row = (one) => [
    link(one.type, "events", { bus, type: one.type }), count(one.count), time(one.last_seen),
    one.count === 0 ? "" : one.emitted_only ? "plugins" : "outside",
    one.subscribers.length === 0 ? h("span", { class: "quiet" }, "nobody")
      : one.subscribers.map((name, at) => [at > 0 ? ", " : "", link(name, "plugin", { name })]),
  ];
  const form = h("form", { class: "row", onsubmit: (submitted) => {
    submitted.preventDefault();
    location.hash = `#/types?${new URLSearchParams(new FormData(form))}`;
  } }, field("Bus", input("bus", bus, { placeholder: "the default one" })), h("button", {}, "Show"));
  const load = () => json("v1/types", { bus }, signal);
  return [h("h1", {}, "Types"), form, live(signal, 5000, load, ({ types: all }) => table(columns, all.map(row), "No events yet."))];
}
