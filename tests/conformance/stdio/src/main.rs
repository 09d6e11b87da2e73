//! The conformance handler as a plain program, against `wit/STDIO.md` alone. What each type asks for:
//! `tests/conformance/README.md`.

use std::io::{self, BufRead};

use serde_json::{Map, Value, json};

/// What is no further attribute of an event.
const FIELDS: [&str; 10] = [
    "specversion", "id", "source", "type", "partitionkey", "subject", "time", "datacontenttype",
    "data", "data_base64",
];

struct Delivery {
    event: Value,
    rest: Value,
}

fn main() -> io::Result<()> {
    let mut lines = io::stdin().lock().lines();
    let mut line = || -> io::Result<Value> {
        let text = lines.next().transpose()?.unwrap_or_default();
        Ok(serde_json::from_str(&text)?)
    };
    let delivery = Delivery { event: line()?, rest: line()? };
    delivery.run();
    Ok(())
}

fn say(member: &str, value: Value) {
    println!("{}", json!({ member: value }));
}

fn emit(kind: &str, data: Value) {
    say("emit", json!({ "type": kind, "data": data }));
}

fn set(name: &str, value: Value) {
    say("state", json!({ "set": { name: value } }));
}

fn reject(reason: &str) {
    println!("{}", json!({ "outcome": "reject", "reason": reason }));
}

impl Delivery {
    fn run(&self) {
        let data = &self.event["data"];
        match self.event["type"].as_str().unwrap_or_default() {
            "conf.echo" => self.echo(),
            "conf.emit" => (1..=data["count"].as_u64().unwrap_or(0)).for_each(|n| {
                let key = format!("part-{n}");
                let attributes = json!({ "part": n.to_string() });
                let emitted = json!({ "type": "emit.done", "key": key, "data": { "n": n },
                                      "attributes": attributes });
                say("emit", emitted);
            }),
            "conf.state" => self.add_up(),
            "conf.retry" if self.rest["attempt"] == 1 => println!(
                "{}",
                json!({ "outcome": "retry", "reason": "not yet", "after_ms": 1 })
            ),
            "conf.retry" => emit("retry.done", json!({ "attempt": self.rest["attempt"] })),
            "conf.reject" => {
                set("gone", json!(true));
                say("emit", json!({ "type": "reject.done" }));
                reject(data["why"].as_str().unwrap_or_default());
            }
            "conf.trap" => {
                set("gone", json!(true));
                panic!("on purpose");
            }
            "conf.fuel" => loop {
                std::hint::black_box(());
            },
            "conf.memory" => {
                let mut all = Vec::new();
                loop {
                    all.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
                }
            }
            "conf.unicode" => {
                set(data["text"].as_str().unwrap_or_default(), data["text"].clone());
                emit("unicode.done", json!({ "text": data["text"], "key": self.key() }));
            }
            "conf.read" => {
                let z = data["z"].as_f64().map(|z| z as u64);
                emit("read.done", json!({ "n": data["n"], "z": z }));
            }
            "conf.attributes" => self.pass_on(),
            "conf.timer" => {
                say("timer", json!({ "set": "never", "after_ms": 1 }));
                say("timer", json!({ "cancel": "never" }));
                say("timer", json!({ "set": "later", "after_ms": 1, "data": { "n": 7 } }));
            }
            "tidegate.timer" => {
                let name = &self.event["timername"];
                emit("timer.done", json!({ "name": name, "data": data, "key": self.key() }));
            }
            "conf.nowhere" => {
                say("emit", json!({ "type": "nowhere.done", "key": "", "data": {} }));
            }
            "conf.call" => {
                let body = json!({ "n": 7 });
                say("call", json!({ "name": "ask", "url": data["url"], "data": body }));
            }
            "tidegate.response" => {
                let status = self.event["callstatus"].as_str().and_then(|s| s.parse::<u16>().ok());
                let name = &self.event["callname"];
                emit("call.done", json!({ "name": name, "status": status }));
            }
            "conf.config" => {
                let config = &self.rest["config"];
                let found = json!({ "greeting": config["greeting"], "missing": config["missing"] });
                emit("config.done", found);
            }
            "conf.log" => {
                let levels = ["trace", "debug", "info", "warn", "error"];
                for (level, message) in levels.iter().zip(["one", "two", "three", "four", "five"]) {
                    say("log", json!({ "level": level, "message": message }));
                }
            }
            "tidegate.command" | "tidegate.query" => self.answer(),
            _ => {}
        }
    }

    fn key(&self) -> &Value {
        match &self.event["partitionkey"] {
            Value::Null => &self.event["subject"],
            key => key,
        }
    }

    fn sum(&self) -> u64 {
        self.rest["state"]["sum"].as_u64().unwrap_or(0)
    }

    /// The payload goes back in the member it came in.
    fn echo(&self) {
        let mut emitted = Map::from_iter([("type".to_owned(), json!("echo.done"))]);
        for name in ["datacontenttype", "data", "data_base64"] {
            if let Some(value) = self.event.get(name) {
                emitted.insert(name.to_owned(), value.clone());
            }
        }
        say("emit", Value::Object(emitted));
    }

    fn add_up(&self) {
        let sum = self.sum() + self.event["data"]["add"].as_u64().unwrap_or(0);
        let changes = json!({ "set": { "sum": sum, "last": self.event["id"] }, "delete": ["draft"] });
        set("draft", json!(true));
        say("state", changes);
        emit("state.done", json!({ "sum": sum, "names": ["last", "sum"] }));
    }

    fn pass_on(&self) {
        let given = self.event.as_object().into_iter().flatten();
        let given: Map<String, Value> = given
            .filter(|(name, _)| !FIELDS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let size = |(name, value): (&String, &Value)| name.len() + value.as_str().map_or(0, str::len);
        let bytes: usize = given.iter().map(size).sum();
        let found = json!({ "count": given.len(), "bytes": bytes });
        let emitted = json!({ "type": "attributes.done", "data": found, "attributes": given });
        say("emit", emitted);
    }

    fn answer(&self) {
        match self.rest["request"]["operation"].as_str().unwrap_or_default() {
            "add" => {
                let sum = self.sum() + self.event["data"]["amount"].as_u64().unwrap_or(0);
                set("sum", json!(sum));
                emit("add.done", json!({ "sum": sum }));
                say("response", json!({ "data": { "sum": sum } }));
            }
            "raw" => say(
                "response",
                json!({ "datacontenttype": "application/octet-stream", "data_base64": "AP8=" }),
            ),
            "sum" => say("response", json!({ "data": { "sum": self.sum() } })),
            "refuse" => {
                set("gone", json!(true));
                reject("not this one");
            }
            other => reject(&format!("no such operation: {other}")),
        }
    }
}
