// Which page is shown, and who looks at it.

import { ApiError, json, token } from "./api.js";
import { h } from "./dom.js";
import { deadLetter, deadLetters } from "./dead_letters.js";
import { event, events } from "./events.js";
import { overview } from "./overview.js";
import { plugin } from "./plugin.js";
import { publish } from "./publish.js";
import { connection, forgetNotices, notice } from "./shell.js";
import { types } from "./types.js";

const PAGES = { "": overview, events, event, types, plugin, publish, "dead-letters": deadLetters, "dead-letter": deadLetter };

const main = document.getElementById("page");
const signOut = document.getElementById("sign-out");
let leave = new AbortController();

function signIn() {
  leave.abort();
  signOut.hidden = true;
  connection.textContent = "";
  const field = h("input", { type: "password", name: "token", required: true, autocomplete: "off" });
  const submit = async (submitted) => {
    submitted.preventDefault();
    token.set(field.value.trim());
    forgetNotices();
    try {
      await json("v1/buses");
    } catch (error) {
      if (error instanceof ApiError && error.code === "unauthorized") {
        token.forget();
        notice("the host does not know this token", "bad");
        return;
      }
    }
    show();
  };
  main.replaceChildren(
    h("h1", {}, "Sign in"),
    h("p", {}, "This host has tokens. One with the role ", h("code", {}, "read"), " sees everything here; ",
      h("code", {}, "operate"), " also pauses, rewinds and redrives. It is kept until this tab is closed."),
    h("form", { class: "row", onsubmit: submit }, h("label", {}, "Token", field), h("button", {}, "Sign in")));
  field.focus();
}

/** Shows the page that the address names. */
function show() {
  leave.abort();
  leave = new AbortController();
  forgetNotices();
  connection.textContent = "";
  signOut.hidden = !token.get();
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  const draw = PAGES[name] ?? (() => [h("h1", {}, "There is no such page")]);
  for (const entry of document.querySelectorAll("nav a")) {
    if (entry.hash.replace(/^#\/?/, "") === name) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  main.replaceChildren(...draw(new URLSearchParams(query), leave.signal));
  document.title = `${main.querySelector("h1")?.textContent ?? "tidegate"} - tidegate`;
}

window.addEventListener("unauthorized", signIn);
signOut.addEventListener("click", () => {
  token.forget();
  show();
});
window.addEventListener("hashchange", () => {
  show();
  main.focus();
});
show();
