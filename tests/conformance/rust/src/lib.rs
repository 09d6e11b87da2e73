//! The conformance handler in Rust. What each type asks for: `tests/conformance/README.md`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_sdk::{
    Answer, Event, Failure, Lifted, Outcome, Request, Response, attempt, attributes, calls,
    commands, config, debug, emit, error, handlers, info, queries, reject, retry_after, state,
    timers, trace, upcaster, warn,
};

handlers! {
    "conf.echo" => echo,
    "conf.emit" => emit_many,
    "conf.state" => add_up,
    "conf.retry" => try_again,
    "conf.reject" => give_up,
    "conf.trap" => crash,
    "conf.fuel" => spin,
    "conf.memory" => grow,
    "conf.unicode" => unicode,
    "conf.read" => read_numbers,
    "conf.attributes" => pass_on,
    "conf.timer" => set_timers,
    "conf.nowhere" => emit_nowhere,
    "conf.call" => call,
    "conf.config" => configured,
    "conf.log" => log_lines,
    "conf.old.*" => old,
    "tidegate.timer" => fire,
    "tidegate.response" => answered,
}

commands! { "add" => add, "refuse" => refuse }

queries! { "raw" => raw, "sum" => sum }

upcaster!(lift);

fn echo(event: &Event) -> Outcome {
    emit("echo.done").bytes(event.content_type(), event.bytes())?;
    Ok(())
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

fn emit_many(_: &Event, Count { count }: Count) -> Outcome {
    for n in 1..=count {
        let part = emit("emit.done").key(format!("part-{n}")).attribute("part", n.to_string());
        part.json(&json!({ "n": n }))?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Add {
    add: u64,
}

fn add_up(event: &Event, Add { add }: Add) -> Outcome {
    let sum = state::get("sum")?.unwrap_or(0) + add;
    state::set("draft", &true)?;
    state::set("sum", &sum)?;
    state::set("last", event.id())?;
    state::delete("draft")?;
    let names: Vec<String> = state::list("").collect();
    emit("state.done").json(&json!({ "sum": sum, "names": names }))?;
    Ok(())
}

fn try_again(_: &Event) -> Outcome {
    if attempt() < 2 {
        return Err(retry_after("not yet", Duration::from_millis(1)));
    }
    emit("retry.done").json(&json!({ "attempt": attempt() }))?;
    Ok(())
}

#[derive(Deserialize)]
struct Why {
    why: String,
}

fn give_up(_: &Event, Why { why }: Why) -> Outcome {
    state::set("gone", &true)?;
    emit("reject.done").empty()?;
    Err(reject(why))
}

fn crash(_: &Event) -> Outcome {
    state::set("gone", &true)?;
    panic!("on purpose");
}

fn spin(_: &Event) -> Outcome {
    loop {
        std::hint::black_box(());
    }
}

fn grow(_: &Event) -> Outcome {
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

fn unicode(event: &Event, Text { text }: Text) -> Outcome {
    state::set(&text, &text)?;
    emit("unicode.done").json(&json!({ "text": text, "key": event.key() }))?;
    Ok(())
}

fn read_numbers(_: &Event, data: Value) -> Outcome {
    // A struct would refuse a name that is there twice.
    let z = data["z"].as_f64().map(|z| z as u64);
    emit("read.done").json(&json!({ "n": data["n"], "z": z }))?;
    Ok(())
}

fn pass_on(_: &Event) -> Outcome {
    let attributes = attributes();
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let count = attributes.len();
    let done = attributes.into_iter().fold(emit("attributes.done"), |done, (name, value)| {
        done.attribute(name, value)
    });
    done.json(&json!({ "count": count, "bytes": bytes }))?;
    Ok(())
}

fn set_timers(_: &Event) -> Outcome {
    timers::set_after("never", Duration::from_millis(1), b"")?;
    timers::cancel("never")?;
    timers::set_after("later", Duration::from_millis(1), br#"{"n":7}"#)?;
    Ok(())
}

fn fire(event: &Event, data: Value) -> Outcome {
    let name = tidegate_sdk::attribute("timername");
    emit("timer.done").json(&json!({ "name": name, "data": data, "key": event.key() }))?;
    Ok(())
}

fn emit_nowhere(_: &Event) -> Outcome {
    emit("nowhere.done").key("").json(&json!({}))?;
    Ok(())
}

#[derive(Deserialize)]
struct Target {
    url: String,
}

fn call(_: &Event, Target { url }: Target) -> Outcome {
    calls::request("ask", "POST", url).send_json(&json!({ "n": 7 }))?;
    Ok(())
}

fn answered(_: &Event) -> Outcome {
    let answer = calls::answer().ok_or_else(|| reject("no answer"))?;
    emit("call.done").json(&json!({ "name": answer.name, "status": answer.status }))?;
    Ok(())
}

fn configured(_: &Event) -> Outcome {
    let found = json!({ "greeting": config("greeting"), "missing": config("missing") });
    emit("config.done").json(&found)?;
    Ok(())
}

fn log_lines(_: &Event) -> Outcome {
    trace!("one");
    debug!("two");
    info!("three");
    warn!("four");
    error!("five");
    Ok(())
}

fn old(_: &Event, data: Value) -> Outcome {
    emit("old.done").json(&data)?;
    Ok(())
}

#[derive(Deserialize)]
struct Amount {
    amount: u64,
}

fn add(_: &Request, Amount { amount }: Amount) -> Answer {
    let sum = state::get("sum")?.unwrap_or(0) + amount;
    state::set("sum", &sum)?;
    emit("add.done").json(&json!({ "sum": sum }))?;
    Ok(Response::json(&json!({ "sum": sum }))?)
}

fn refuse(_: &Request) -> Answer {
    state::set("gone", &true)?;
    Err(reject("not this one"))
}

fn raw(_: &Request) -> Answer {
    Ok(Response::bytes("application/octet-stream", [0, 255]))
}

fn sum(_: &Request) -> Answer {
    let sum = state::get::<u64>("sum")?.unwrap_or(0);
    Ok(Response::json(&json!({ "sum": sum }))?)
}

/// Amounts in euros become amounts in cents.
fn lift(event: &Event, version: u32) -> Result<Lifted, Failure> {
    let Amount { amount } = event.data()?;
    Ok(Lifted::json(version + 1, &json!({ "cents": amount * 100 }))?)
}
