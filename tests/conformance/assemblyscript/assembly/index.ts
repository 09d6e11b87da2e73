// The conformance handler in AssemblyScript. What each type asks for: tests/conformance/README.md.
import * as tidegate from "./tidegate";

tidegate.on("conf.echo", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.emitBytes("echo.done", event.contentType, event.data);
  return tidegate.ok();
});

tidegate.on("conf.emit", (event: tidegate.Event): tidegate.Outcome => {
  const count = event.json().integer("count");
  for (let n: i64 = 1; n <= count; n++) {
    const part = new tidegate.Draft("emit.done");
    part.key = `part-${n}`;
    part.attributes.set("part", n.toString());
    part.json(`{"n":${n}}`);
    tidegate.emitDraft(part);
  }
  return tidegate.ok();
});

tidegate.on("conf.state", (event: tidegate.Event): tidegate.Outcome => {
  const sum = tidegate.state.getInteger("sum", 0) + event.json().integer("add");
  tidegate.state.set("draft", "true");
  tidegate.state.setInteger("sum", sum);
  tidegate.state.set("last", tidegate.quoted(event.id));
  tidegate.state.remove("draft");
  const names = tidegate.state.list().map<string>((name) => tidegate.quoted(name)).join(",");
  tidegate.emit("state.done", `{"sum":${sum},"names":[${names}]}`);
  return tidegate.ok();
});

tidegate.on("conf.retry", (event: tidegate.Event): tidegate.Outcome => {
  if (tidegate.attempt() < 2) return tidegate.retry("not yet", 1);
  tidegate.emit("retry.done", `{"attempt":${tidegate.attempt()}}`);
  return tidegate.ok();
});

tidegate.on("conf.reject", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.state.set("gone", "true");
  tidegate.emitDraft(new tidegate.Draft("reject.done"));
  return tidegate.reject(event.json().string("why"));
});

tidegate.on("conf.trap", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.state.set("gone", "true");
  assert(false, "on purpose");
  return tidegate.ok();
});

tidegate.on("conf.fuel", (event: tidegate.Event): tidegate.Outcome => {
  while (true) {}
  return tidegate.ok();
});

tidegate.on("conf.memory", (event: tidegate.Event): tidegate.Outcome => {
  const kept: Uint8Array[] = [];
  while (true) kept.push(new Uint8Array(1 << 20));
  return tidegate.ok();
});

tidegate.on("conf.unicode", (event: tidegate.Event): tidegate.Outcome => {
  const text = event.json().string("text");
  const key = event.key;
  tidegate.state.set(text, tidegate.quoted(text));
  const said = tidegate.quoted(key ? key : "");
  tidegate.emit("unicode.done", `{"text":${tidegate.quoted(text)},"key":${said}}`);
  return tidegate.ok();
});

tidegate.on("conf.read", (event: tidegate.Event): tidegate.Outcome => {
  const n = event.json().integer("n"), z = event.json().number("z", 1);
  tidegate.emit("read.done", `{"n":${n},"z":${<i64>z}}`);
  return tidegate.ok();
});

tidegate.on("conf.attributes", (event: tidegate.Event): tidegate.Outcome => {
  const done = new tidegate.Draft("attributes.done");
  done.attributes = tidegate.attributes();
  const names = done.attributes.keys();
  let bytes = 0;
  for (let i = 0; i < names.length; i++) {
    bytes += String.UTF8.byteLength(names[i]);
    bytes += String.UTF8.byteLength(done.attributes.get(names[i]));
  }
  done.json(`{"count":${names.length},"bytes":${bytes}}`);
  tidegate.emitDraft(done);
  return tidegate.ok();
});

tidegate.on("conf.timer", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.timers.set("never", tidegate.nowMs() + 1);
  tidegate.timers.cancel("never");
  tidegate.timers.set("later", tidegate.nowMs() + 1, `{"n":7}`);
  return tidegate.ok();
});

tidegate.on("tidegate.timer", (event: tidegate.Event): tidegate.Outcome => {
  const name = tidegate.attribute("timername");
  const key = event.key;
  const from = `"name":${tidegate.quoted(name ? name : "")},"key":${tidegate.quoted(key ? key : "")}`;
  tidegate.emit("timer.done", `{${from},"data":${event.text()}}`);
  return tidegate.ok();
});

tidegate.on("conf.nowhere", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.emit("nowhere.done", "{}", "");
  return tidegate.ok();
});

tidegate.on("conf.call", (event: tidegate.Event): tidegate.Outcome => {
  const call = new tidegate.Call("ask", event.json().string("url"));
  call.json(`{"n":7}`);
  tidegate.calls.send(call);
  return tidegate.ok();
});

tidegate.on("tidegate.response", (event: tidegate.Event): tidegate.Outcome => {
  const name = tidegate.attribute("callname"), status = tidegate.attribute("callstatus");
  const said = tidegate.quoted(name ? name : "");
  tidegate.emit("call.done", `{"name":${said},"status":${status ? status : "0"}}`);
  return tidegate.ok();
});

function configured(name: string): string {
  const value = tidegate.config(name);
  return value ? tidegate.quoted(value) : "null";
}

tidegate.on("conf.config", (event: tidegate.Event): tidegate.Outcome => {
  const greeting = configured("greeting"), missing = configured("missing");
  tidegate.emit("config.done", `{"greeting":${greeting},"missing":${missing}}`);
  return tidegate.ok();
});

tidegate.on("conf.log", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.log(tidegate.Level.trace, "one");
  tidegate.log(tidegate.Level.debug, "two");
  tidegate.log(tidegate.Level.info, "three");
  tidegate.log(tidegate.Level.warn, "four");
  tidegate.log(tidegate.Level.error, "five");
  return tidegate.ok();
});

tidegate.on("conf.old.*", (event: tidegate.Event): tidegate.Outcome => {
  tidegate.emit("old.done", event.text());
  return tidegate.ok();
});

tidegate.command("add", (request: tidegate.Request, response: tidegate.Response): tidegate.Outcome => {
  const sum = tidegate.state.getInteger("sum", 0) + request.json().integer("amount");
  tidegate.state.setInteger("sum", sum);
  tidegate.emit("add.done", `{"sum":${sum}}`);
  response.json(`{"sum":${sum}}`);
  return tidegate.ok();
});

tidegate.command("refuse", (request: tidegate.Request, response: tidegate.Response): tidegate.Outcome => {
  tidegate.state.set("gone", "true");
  return tidegate.reject("not this one");
});

tidegate.query("raw", (request: tidegate.Request, response: tidegate.Response): tidegate.Outcome => {
  response.contentType = "application/octet-stream";
  response.data = new Uint8Array(2);
  response.data[1] = 255;
  return tidegate.ok();
});

tidegate.query("sum", (request: tidegate.Request, response: tidegate.Response): tidegate.Outcome => {
  response.json(`{"sum":${tidegate.state.getInteger("sum", 0)}}`);
  return tidegate.ok();
});

// Amounts in euros become amounts in cents.
tidegate.upcaster(
  "conf.old.assemblyscript",
  (event: tidegate.Event, version: u32, lifted: tidegate.Lifted): tidegate.Outcome => {
    lifted.version = version + 1;
    lifted.json(`{"cents":${event.json().integer("amount") * 100}}`);
    return tidegate.ok();
  },
);
