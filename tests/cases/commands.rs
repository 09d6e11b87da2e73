//! Commands and queries: each command runs once and in its turn, and is answered when that cannot be
//! taken back; queries see what is durable and wait for nobody.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Host, Http, Place, event, fixture, seed, wait_until};

const WAIT_MAX: Duration = Duration::from_secs(60);

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.plugins().join("tally.wasm"), fixture("tally-guest")).unwrap();
    place
}

/// What a client says of a command beside key and amount.
#[derive(Default)]
struct Said<'a> {
    idempotency_key: Option<&'a str>,
    expected: Option<u64>,
}

fn try_send(http: &Http, name: &str, key: &str, body: &str, said: &Said<'_>) -> Option<Answer> {
    let path = format!("/v1/plugins/tally/command/{name}?key={key}");
    let expected = said.expected.map(|sequence| sequence.to_string());
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(said.idempotency_key.map(|key| ("idempotency-key", key)));
    headers.extend(expected.as_deref().map(|text| ("tidegate-expected-sequence", text)));
    http.send("POST", &path, &headers, body.as_bytes()).ok()
}

fn send(host: &Host, name: &str, key: &str, body: &str, said: &Said<'_>) -> Answer {
    try_send(&host.http, name, key, body, said).expect("the host answers")
}

fn add(host: &Host, key: &str, amount: i64) -> Answer {
    send(host, "add", key, &amount.to_string(), &Said::default())
}

fn number(answer: &Answer, header: &str) -> u64 {
    answer.header(header).unwrap_or_else(|| panic!("{header}: {answer:?}")).parse().unwrap()
}

#[test]
fn a_command_is_answered_with_what_it_did() {
    let place = place();
    let host = place.start();
    let answer = add(&host, "a", 40);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "sum": 40, "count": 1 }));
    assert_eq!(number(&answer, "tidegate-sequence"), 1);
    let emitted = host.http.events("type=tally.added");
    assert_eq!(emitted.len(), 1);
    let position = number(&answer, "tidegate-position");
    assert_eq!(emitted[0]["tidegateposition"], json!(position.to_string()));
    assert_eq!(host.state("tally", "a", "sum").as_deref(), Some("40"));

    let refused = add(&host, "a", -41);
    assert_eq!((refused.status, &*refused.code()), (422, "rejected"));
    assert_eq!(refused.json()["error"]["message"], "it would be -1");
    for (how, status, code) in
        [("panic", 500, "trap"), ("reject", 422, "rejected"), ("later", 503, "retry")]
    {
        let answer = send(&host, "fail", "a", &json!(how).to_string(), &Said::default());
        assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
    }
    let answer = send(&host, "fail", "a", "\"soon\"", &Said::default());
    assert_eq!((answer.status, answer.json()), (200, json!(2)), "{answer:?}");
    assert!(host.dead_letters("tally").is_empty());
    assert_eq!(host.http.events("type=tally.failed").len(), 1);
    assert_eq!(add(&host, "a", 2).json(), json!({ "sum": 42, "count": 2 }));
    assert_eq!(host.metric("tidegate_commands_total", &[("outcome", "rejected")]), 2);
    let unknown = host.http.post("/v1/plugins/nobody/command/add?key=a", "application/json", b"1");
    assert_eq!((unknown.status, &*unknown.code()), (404, "not_found"));
    host.stop();
}

#[test]
fn of_concurrent_commands_with_the_same_expected_sequence_one_wins() {
    const CLIENTS: usize = 6;
    const ROUNDS: u64 = 15;
    let place = place();
    let host = place.start();
    let mut sum = 0;
    for round in 0..ROUNDS {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let http = host.http.clone();
                let amount = i64::try_from(client).unwrap() + 1;
                std::thread::spawn(move || {
                    let said = Said { expected: Some(round), ..Said::default() };
                    (amount, try_send(&http, "add", "a", &amount.to_string(), &said).unwrap())
                })
            })
            .collect();
        let mut won = Vec::new();
        for client in clients {
            let (amount, answer) = client.join().unwrap();
            if answer.status == 200 {
                won.push(amount);
                continue;
            }
            assert_eq!((answer.status, &*answer.code()), (409, "sequence_conflict"));
            let error = answer.json()["error"].clone();
            assert_eq!((&error["expected"], &error["actual"]), (&json!(round), &json!(round + 1)));
        }
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        sum += won[0];
    }
    let sums = host.http.get("/v1/plugins/tally/query/sum?key=a");
    assert_eq!(number(&sums, "tidegate-sequence"), ROUNDS);
    assert_eq!(sums.json(), json!({ "sum": sum, "count": ROUNDS }));
    assert_eq!(host.http.events("type=tally.added").len() as u64, ROUNDS);
    host.stop();
}

/// What a plain program makes of the same commands.
#[derive(Default)]
struct Model {
    sum: i64,
    count: u64,
    answers: BTreeMap<String, (u16, Value)>,
}

impl Model {
    fn add(&mut self, id: &str, amount: i64) -> (u16, Value) {
        if let Some(answer) = self.answers.get(id) {
            return answer.clone();
        }
        let answer = if self.sum + amount < 0 {
            (422, json!(format!("it would be {}", self.sum + amount)))
        } else {
            (self.sum, self.count) = (self.sum + amount, self.count + 1);
            (200, json!({ "sum": self.sum, "count": self.count }))
        };
        self.answers.insert(id.to_owned(), answer.clone());
        answer
    }
}

fn join<T>(clients: Vec<JoinHandle<T>>) -> Vec<T> {
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

fn said(answer: &Answer) -> (u16, Value) {
    let body = answer.json();
    let body = if answer.status == 200 { body } else { body["error"]["message"].clone() };
    (answer.status, body)
}

#[test]
fn killed_hosts_run_each_command_once_and_answer_it_the_same() {
    const KILLS: usize = 3;
    const KEYS: usize = 4;
    let mut rng = seed("killed_hosts_run_each_command_once_and_answer_it_the_same");
    let place = place();
    let mut models: Vec<Model> = (0..KEYS).map(|_| Model::default()).collect();
    for kill in 0..=KILLS {
        let host = place.start();
        // One client a key, each sending one command at a time, until the host is gone under it.
        let clients: Vec<_> = models
            .drain(..)
            .enumerate()
            .map(|(key, mut model)| {
                let (http, mut rng) = (host.http.clone(), rng.fork());
                let round = kill;
                std::thread::spawn(move || {
                    for n in 0..60 {
                        let id = format!("{key}-{round}-{n}");
                        let amount = rng.i64(-30..40);
                        let body = amount.to_string();
                        let said_of = Said { idempotency_key: Some(&id), ..Said::default() };
                        let key = format!("k{key}");
                        let Some(answer) = try_send(&http, "add", &key, &body, &said_of) else {
                            // Nobody knows whether it ran: it is sent again to the next host.
                            return (model, Some((id, amount)));
                        };
                        if answer.status == 503 {
                            return (model, Some((id, amount)));
                        }
                        assert_eq!(said(&answer), model.add(&id, amount), "{id}");
                        // A repetition of any command so far gets the answer that it got.
                        if rng.u8(..) < 40 {
                            let again = try_send(&http, "add", &key, &body, &said_of);
                            if let Some(again) = again.filter(|again| again.status != 503) {
                                assert_eq!(said(&again), model.add(&id, amount), "{id} again");
                            }
                        }
                    }
                    (model, None)
                })
            })
            .collect();
        let ended = if kill < KILLS {
            let after = Duration::from_millis(rng.u64(20..400));
            let begun = Instant::now();
            wait_until("it is time", WAIT_MAX, || {
                if begun.elapsed() >= after { Ok(()) } else { Err(begun.elapsed()) }
            });
            host.kill();
            join(clients)
        } else {
            let ended = join(clients);
            host.stop();
            ended
        };
        let host = place.start();
        for (key, (mut model, unknown)) in ended.into_iter().enumerate() {
            if let Some((id, amount)) = unknown {
                let said_of = Said { idempotency_key: Some(&id), ..Said::default() };
                let answer = send(&host, "add", &format!("k{key}"), &amount.to_string(), &said_of);
                assert_eq!(said(&answer), model.add(&id, amount), "{id} after a kill");
            }
            let path = format!("/v1/plugins/tally/query/sum?key=k{key}");
            let found = host.http.get(&path).expect_ok();
            assert_eq!(found, json!({ "sum": model.sum, "count": model.count }), "k{key}");
            let emitted = host.http.events(&format!("type=tally.added&key=k{key}"));
            assert_eq!(emitted.len() as u64, model.count, "k{key}");
            models.push(model);
        }
        host.kill();
    }
}

#[test]
fn the_same_key_with_another_request_is_refused() {
    let place = place();
    let host = place.start();
    let said_of = Said { idempotency_key: Some("i-1"), ..Said::default() };
    let first = send(&host, "add", "a", "1", &said_of);
    assert_eq!((first.status, first.header("tidegate-repeated")), (200, None));
    let again = send(&host, "add", "a", "1", &said_of);
    assert_eq!((again.status, again.header("tidegate-repeated")), (200, Some("true")));
    assert_eq!((again.json(), number(&again, "tidegate-position")), {
        (first.json(), number(&first, "tidegate-position"))
    });
    let other = send(&host, "add", "a", "2", &said_of);
    assert_eq!((other.status, &*other.code()), (409, "idempotency_conflict"));
    assert_eq!(host.state("tally", "a", "sum").as_deref(), Some("1"));
    host.stop();
}

#[test]
fn a_key_that_would_not_get_to_it_refuses_a_command_at_once() {
    let place = place();
    let host = place.start();
    add(&host, "a", 1);
    host.cli(&["keys", "hold", "tally", "a", "--reason", "a look"]).run().expect_done();
    let refused = add(&host, "a", 1);
    assert_eq!((refused.status, &*refused.code()), (409, "key_unavailable"), "{refused:?}");
    assert_eq!(add(&host, "b", 1).status, 200);
    host.cli(&["keys", "release", "tally", "a"]).run().expect_done();
    assert_eq!(add(&host, "a", 1).status, 200);
    host.cli(&["plugins", "pause", "tally"]).run().expect_done();
    assert_eq!(add(&host, "a", 1).code(), "key_unavailable");
    // Who only looks may.
    let sum = host.http.get("/v1/plugins/tally/query/sum?key=a");
    assert_eq!(sum.expect_ok(), json!({ "sum": 2, "count": 2 }));
    host.cli(&["plugins", "resume", "tally"]).run().expect_done();
    assert_eq!(add(&host, "a", 1).status, 200);
    host.stop();
}

#[test]
fn queries_answer_while_handlers_of_the_key_run_and_see_whole_deliveries() {
    let place = place();
    let host = place.start();
    // Each takes its time, and all are of one key.
    let posted = |n: u64| {
        let mut event = event("tally.posted", &format!("p-{n}"), Some("a"), json!(1));
        event["rounds"] = json!("400000");
        event
    };
    let batch: Vec<Value> = (0..150).map(posted).collect();
    let appended = host.http.publish(&batch);
    let mut seen = Vec::new();
    loop {
        let answer = host.http.get("/v1/plugins/tally/query/sum?key=a");
        let (commit, position) =
            (number(&answer, "tidegate-commit"), number(&answer, "tidegate-position"));
        let found = answer.expect_ok();
        // Both values come from the same delivery, whenever it was.
        assert_eq!(found["sum"], found["count"], "{found}");
        seen.push((commit, position, found["count"].as_u64().unwrap()));
        if found["count"] == 150 {
            break;
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() > 3, "a query waited for the handlers: {seen:?}");
    let completed = |position: u64| {
        appended.iter().filter(|at| at["position"].as_u64().unwrap() <= position).count() as u64
    };
    for (_, position, count) in &seen {
        assert!(completed(*position) <= *count, "{position} {count}");
    }
    host.stop();
}

#[test]
fn a_query_waits_for_the_position_it_is_told() {
    let place = place();
    let host = place.start();
    for n in 1..=20_u64 {
        let appended =
            host.http.publish(&[event("tally.posted", &n.to_string(), Some("a"), json!(1))]);
        let position = appended[0]["position"].as_u64().unwrap();
        let path = format!("/v1/plugins/tally/query/sum?key=a&wait={position}");
        assert_eq!(host.http.get(&path).expect_ok()["count"], n);
    }
    let answer = add(&host, "a", 1);
    let position = number(&answer, "tidegate-position");
    let path = format!("/v1/plugins/tally/query/sum?key=a&wait={position}");
    assert_eq!(host.http.get(&path).expect_ok()["count"], 21);
    // A position that nobody has reached.
    let path = "/v1/plugins/tally/query/sum?key=a&wait=1000000";
    let answer = host.http.get(path);
    assert_eq!((answer.status, &*answer.code()), (504, "wait_timeout"));
    host.stop();
}

#[test]
fn queries_go_across_keys_and_write_nothing() {
    const KEYS: usize = 2500;
    let place = place();
    let host = place.start();
    let batch: Vec<Value> = (0..KEYS)
        .map(|n| event("tally.posted", &n.to_string(), Some(&format!("o-{n:04}")), json!(1)))
        .collect();
    host.http.publish(&batch);
    host.http.publish(&[event("tally.posted", "x", Some("p-1"), json!(7))]);
    host.wait_rest("tally", 0);
    let all = |prefix: &str| {
        host.http.get(&format!("/v1/plugins/tally/query/all?prefix={prefix}")).expect_ok()
    };
    assert_eq!((all("o-"), all("o-1"), all("p-"), all("q")), {
        (json!(KEYS), json!(1000), json!(7), json!(0))
    });
    let names = host.http.get("/v1/plugins/tally/query/page?prefix=o-").expect_ok();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(names.len(), KEYS);
    assert!(names.is_sorted());
    let answer = host.http.get("/v1/plugins/tally/query/sum?key=p-1&write=yes");
    assert_eq!((answer.status, &*answer.code()), (422, "rejected"), "{answer:?}");
    assert_eq!(host.state("tally", "p-1", "sum").as_deref(), Some("7"));
    assert_eq!(host.http.get("/v1/plugins/tally/query/none?key=a").code(), "rejected");
    host.stop();
}

#[test]
fn the_command_line_sends_both() {
    let place = place();
    let host = place.start();
    let words = ["command", "tally", "add", "--key", "a", "--data", "5"];
    assert_eq!(host.cli(&words).run().expect_done(), "{\"sum\":5,\"count\":1}\n");
    let words = ["--output", "json", "query", "tally", "sum", "--key", "a"];
    let answer = host.cli(&words).run().json();
    assert_eq!(answer["data"], json!({ "sum": 5, "count": 1 }));
    assert_eq!(answer["sequence"], 1);
    let words = ["query", "tally", "all", "--param", "prefix=a"];
    assert_eq!(host.cli(&words).run().expect_done(), "5\n");
    let words = ["command", "tally", "add", "--key", "a", "--data", "-6"];
    assert!(host.cli(&words).run().expect_failed().contains("it would be -1"));
    let words =
        ["command", "tally", "add", "--key", "a", "--data", "1", "--expected-sequence", "0"];
    assert!(host.cli(&words).run().expect_failed().contains("the key is at sequence 1, not 0"));
    host.stop();
}
