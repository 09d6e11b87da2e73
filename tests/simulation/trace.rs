//! What a client does: events of some keys, some of which fail, set timers and cancel them; time
//! passes; people redrive, rewind and restart.

use serde_json::{Value, json};

/// More time than any timer of a trace waits.
pub(crate) const AFTER_ALL_MS: u64 = 100_000;
/// Most timers are due after so long at most.
const TIMER_MS_MAX: u64 = 5000;

/// One thing that a client or an operator does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// One request.
    Publish(Vec<Value>),
    /// Time goes by.
    Pass(u64),
    /// Everything comes to rest.
    Rest,
    /// What failed works for once, and is redriven.
    Mend,
    /// State is rebuilt from the first event; something of the generation before comes late.
    Rewind,
    /// A stop in order, and a start.
    Restart,
}

fn event(key: usize, number: usize, data: &Value) -> Value {
    json!({
        "id": format!("k{key}/{number}"),
        "source": "/test",
        "type": "step.taken",
        "partitionkey": format!("k{key}"),
        "data": data,
    })
}

/// A trace of about so many events. The same seed gives the same trace.
pub(crate) fn trace(seed: u64, events: usize) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let keys = 4;
    let mut numbers = vec![0; keys];
    let mut steps = Vec::new();
    let mut made = 0;
    while made < events {
        let count = if random.u8(..4) == 0 { random.usize(2..5) } else { 1 };
        let batch = (0..count).map(|_| {
            let key = random.usize(..keys);
            numbers[key] += 1;
            event(key, numbers[key], &data(&mut random, numbers[key]))
        });
        steps.push(Step::Publish(batch.collect()));
        made += count;
        match random.u8(..8) {
            0..=3 => steps.push(Step::Rest),
            4 => steps.push(Step::Pass(random.u64(..TIMER_MS_MAX))),
            _ => {}
        }
    }
    // What people do, at places of its own.
    for (part, step) in [(3, Step::Mend), (4, Step::Restart), (6, Step::Rewind), (9, Step::Restart)]
    {
        let at = steps.len() * part / 10;
        if matches!(step, Step::Rewind) {
            // A rewind with dead letters would give these up without their effects.
            steps.insert(at, Step::Mend);
        }
        let at = at + usize::from(matches!(step, Step::Rewind));
        steps.insert(at, step);
    }
    steps
}

fn data(random: &mut fastrand::Rng, number: usize) -> Value {
    let text = "x".repeat(random.usize(..1500));
    let mut data = json!({ "n": number, "text": text });
    match random.u8(..16) {
        0 => data["fail"] = "once".into(),
        1 => data["fail"] = "broken".into(),
        2 => data["fail"] = "reject".into(),
        3..=5 => {
            let name = format!("t{}", random.u8(..2));
            data["set"] = json!([{ "name": name, "after_ms": random.u64(..TIMER_MS_MAX) }]);
        }
        6 => data["set"] = json!([{ "name": "long", "after_ms": 4 * TIMER_MS_MAX }]),
        7 => data["cancel"] = json!(["long", "t0"]),
        _ => {}
    }
    data
}
