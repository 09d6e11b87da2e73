// What all pages share: notices, questions, and what is looked up again and again.

import { ApiError } from "./api.js";
import { h } from "./dom.js";

/** Refusals of what can be there later: a plugin that is mended, a host with less to do. */
const PASSING = [409, 429];
const notices = document.getElementById("notices");
/** Where it stands whether the host answers. */
export const connection = document.getElementById("connection");

/** Says something at the top of the page, until it is put away or another page is shown. */
export function notice(message, kind = "good") {
  const close = h("button", { type: "button", onclick: () => line.remove() }, "Close");
  const line = h("div", { class: `notice ${kind}` }, message, close);
  notices.replaceChildren(line);
}

export function forgetNotices() {
  notices.replaceChildren();
}

/** Says what went wrong; asks for a token where that is what is missing. */
export function failed(error) {
  if (error.name === "AbortError") return;
  if (error instanceof ApiError && error.code === "unauthorized") {
    window.dispatchEvent(new Event("unauthorized"));
  } else if (error instanceof ApiError) {
    notice(`${error.message} (${error.code}, request ${error.requestId ?? "unknown"})`, "bad");
  } else {
    notice(`the host does not answer: ${error.message}`, "bad");
  }
}

/**
 * Loads and draws into an element, now and every so many milliseconds while the page is shown. What has
 * not changed is not drawn again: who is reading, or has the focus there, is not disturbed.
 */
export function live(signal, every, load, draw) {
  const element = h("div");
  let before;
  let timer;
  let refused = false;
  const turn = async () => {
    clearTimeout(timer);
    try {
      const loaded = await load();
      if (signal.aborted) return;
      connection.textContent = "connected";
      if (refused) forgetNotices();
      refused = false;
      const now = JSON.stringify(loaded);
      if (now !== before) redraw(element, [draw(loaded)].flat());
      before = now;
    } catch (error) {
      if (signal.aborted) return;
      const answered = error instanceof ApiError;
      connection.textContent = answered ? "connected" : "not connected";
      if (answered) failed(error);
      refused = answered;
      // What was asked for is not there, or not for everybody: it will not be later.
      if (answered && error.status < 500 && !PASSING.includes(error.status)) return;
    }
    clearTimeout(timer);
    if (!signal.aborted) timer = setTimeout(next, every);
  };
  // Nobody looks: nothing is asked.
  const next = () => {
    if (!document.hidden) return turn();
    document.addEventListener("visibilitychange", next, { once: true, signal });
  };
  turn();
  element.again = turn;
  return element;
}

/** Draws anew; a link that has the focus keeps it. */
function redraw(element, parts) {
  const href = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  element.replaceChildren(...parts);
  const again = [...element.querySelectorAll("a")].find((a) => href !== null && a.getAttribute("href") === href);
  again?.focus({ preventScroll: true });
}

/** Runs what a button is for, and says how it went. */
export async function act(what, done) {
  try {
    const answer = await what();
    notice(typeof done === "function" ? done(answer) : done);
    return answer;
  } catch (error) {
    failed(error);
    return undefined;
  }
}

/** Asks before something is done; answers the fields of the form, or nothing. */
export function ask(question, label, fields = []) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog" },
      h("p", {}, question), fields,
      h("div", { class: "row" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: "danger" }, label)));
    let answer;
    form.addEventListener("submit", () => {
      answer = Object.fromEntries(new FormData(form));
    });
    const dialog = h("dialog", { onclose: () => {
      dialog.remove();
      resolve(answer);
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}
