use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Aggregate, STATE_NAME, execute, take};
use crate::testing::{Ask, Emitted, Host, Input, Verdict, event, request};
use crate::{Failure, Request, reject};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    count: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Add { by: u32 },
    Twice,
    Nothing,
    Limit(u32),
}

#[derive(Serialize, Deserialize)]
enum Happened {
    #[serde(rename = "counter.added")]
    Added { by: u32 },
    #[serde(rename = "counter.reset")]
    Reset,
}

impl Aggregate for Counter {
    type Command = Command;
    type Event = Happened;

    fn decide(&self, command: Command, _: &Request) -> Result<Vec<Happened>, Failure> {
        match command {
            Command::Add { by: 13 } => Err(reject("unlucky")),
            Command::Add { by } => Ok(vec![Happened::Added { by }]),
            Command::Twice => Ok(vec![Happened::Reset, Happened::Added { by: self.count * 2 }]),
            Command::Limit(limit) if self.count > limit => Ok(vec![Happened::Reset]),
            Command::Nothing | Command::Limit(_) => Ok(Vec::new()),
        }
    }

    fn apply(&mut self, event: &Happened) {
        match event {
            Happened::Added { by } => self.count += by,
            Happened::Reset => self.count = 0,
        }
    }
}

fn add(by: u32) -> Ask {
    request("add").key("k").json(&json!({ "by": by }))
}

fn stored(host: &Host) -> Value {
    host.state("k", STATE_NAME).unwrap_or_default()
}

fn run(host: &mut Host, ask: Ask) -> Vec<Emitted> {
    let (answer, effects) = host.execute(execute::<Counter>, ask);
    answer.unwrap();
    effects.expect_ok().emitted
}

#[test]
fn command_sees_what_the_one_before_did_though_no_event_came_back_yet() {
    let mut host = Host::new();
    run(&mut host, add(2));
    let emitted = run(&mut host, request("twice").key("k"));
    let kinds: Vec<_> = emitted.iter().map(|e| (&*e.kind, &*e.content_type, &*e.data)).collect();
    let added = ("counter.added", "application/json", br#"{"by":4}"# as &[u8]);
    assert_eq!(kinds, [("counter.reset", "", b"" as &[u8]), added]);
    assert_eq!(emitted[1].attributes, [("aggregateversion".to_owned(), "3".to_owned())]);
    assert_eq!(stored(&host), json!({ "version": 3, "state": { "count": 4 } }));
    assert_eq!(run(&mut host, request("limit").key("k").json(&3)).len(), 1);
}

#[test]
fn own_events_change_nothing_where_the_state_holds_them() {
    let mut host = Host::new();
    let mut emitted = run(&mut host, add(2));
    emitted.extend(run(&mut host, add(3)));
    for event in &emitted {
        assert!(host.deliver(take::<Counter>, event).expect_ok().state.is_empty());
    }
    assert_eq!(stored(&host), json!({ "version": 2, "state": { "count": 5 } }));
}

#[test]
fn events_alone_rebuild_the_state() {
    let mut host = Host::new();
    let mut emitted = run(&mut host, add(2));
    emitted.extend(run(&mut host, request("twice").key("k")));
    emitted.extend(run(&mut host, request("nothing").key("k")));
    let mut again = Host::new();
    for event in &emitted {
        again.deliver(take::<Counter>, event).expect_ok();
    }
    assert_eq!(stored(&again), stored(&host));
}

#[test]
fn event_that_is_forged_or_leaves_a_hole_is_rejected() {
    let mut host = Host::new();
    let mut why = |input: Input| match host.deliver(take::<Counter>, input).outcome {
        Verdict::Reject { reason } => reason,
        other => panic!("{other:?}"),
    };
    let added = |version: &str| {
        let event = event("counter.added").key("k").json(&json!({ "by": 1 }));
        event.source("/tidegate/main/counter").attribute("aggregateversion", version)
    };
    assert_eq!(why(added("2")), "event 2 of the aggregate comes where its state is at 0");
    assert!(why(added("1").source("/shop")).starts_with("`counter.added` of /shop is not"));
    assert!(why(added("x")).contains("is not an event of the aggregate"));
    host.deliver(take::<Counter>, added("1")).expect_ok();
}

#[test]
fn refusals_say_why_and_leave_nothing() {
    let mut host = Host::new();
    let mut why = |ask: Ask| {
        let (answer, effects) = host.execute(execute::<Counter>, ask);
        assert!(effects.emitted.is_empty() && effects.state.is_empty());
        match answer {
            Err(Failure::Reject { reason }) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why(add(13)), "unlucky");
    assert_eq!(why(request("add").json(&1)), "`add` needs a key");
    let known = "unknown operation `burn`; known: add, twice, nothing, limit";
    assert_eq!(why(request("burn").key("k")), known);
    let body = "body of `add` is not what the handler takes: missing field `by` at line 1 column 2";
    assert_eq!(why(request("add").key("k")), body);
}

#[test]
fn answer_is_the_version_unless_said_otherwise() {
    let (answer, _) = Host::new().execute(execute::<Counter>, add(1));
    assert_eq!(answer.unwrap().body(), br#"{"version":1}"#);
}
