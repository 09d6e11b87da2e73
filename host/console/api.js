// The HTTP interface of the host that served this page.

/** The token lives as long as the tab. */
const TOKEN = "tidegate.token";
/** Milliseconds until a stream that ended is taken up again. */
const RESUME_MS = 2000;

/** What the host answered in place of what it was asked for. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail.message);
    this.status = status;
    this.code = detail.code;
    this.requestId = detail.request_id;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** The path of a route; names in it are free text. */
export function path(parts, ...names) {
  return parts.reduce((whole, part, at) => whole + encodeURIComponent(names[at - 1]) + part);
}

async function request(method, route, { query = {}, headers = {}, body, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const parameters = new URLSearchParams(given).toString();
  const authorization = token.get() ? { authorization: `Bearer ${token.get()}` } : {};
  const address = parameters ? `${route}?${parameters}` : route;
  const answer = await fetch(address, {
    method, body, signal, cache: "no-store", headers: { ...authorization, ...headers },
  });
  if (answer.ok) return answer;
  const text = await answer.text();
  let detail = { code: String(answer.status), message: text || answer.statusText };
  try {
    detail = JSON.parse(text).error ?? detail;
  } catch {
    // A proxy in between answered in its own words.
  }
  throw new ApiError(answer.status, detail);
}

/** An answer as text, for what must be shown as it is. */
export async function text(route, query, signal) {
  return (await request("GET", route, { query, signal })).text();
}

export async function json(route, query, signal) {
  return (await request("GET", route, { query, signal })).json();
}

/** A page of events as text, and the cursor of the next one. */
export async function events(query, signal) {
  const answer = await request("GET", "v1/events", { query, signal });
  return { batch: await answer.text(), next: answer.headers.get("tidegate-cursor") };
}

export async function post(route, query, { headers, body } = {}) {
  return (await request("POST", route, { query, headers, body })).json();
}

/**
 * The items of a stream of the host, each as its text. It goes on after the last one when the connection
 * is lost, and ends with the signal.
 */
export async function* stream(route, query, signal) {
  let last;
  while (!signal.aborted) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await request("GET", route, { query, headers, signal });
      for await (const item of items(answer.body)) {
        last = item.id ?? last;
        if (item.data !== undefined) yield item.data;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status < 500) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RESUME_MS));
  }
}

/** The items of a body of server-sent events; one without data only says where to go on. */
async function* items(body) {
  let item = {};
  for await (const line of lines(body)) {
    if (line === "") {
      yield item;
      item = {};
      continue;
    }
    const [, name, value] = line.match(/^([^:]*):? ?(.*)$/s);
    if (name === "id") item.id = value;
    if (name === "data") item.data = item.data === undefined ? value : `${item.data}\n${value}`;
  }
}

/** The lines of a body. One ends with CR, LF or both: data is passed on as it was published. */
async function* lines(body) {
  let rest = "";
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    // What comes after a CR at the end may belong to it.
    const found = rest.split(/\r\n|\n|\r(?=[^])/);
    rest = found.pop();
    yield* found;
  }
}
