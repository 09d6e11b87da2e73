//! Commands: each runs once however often it is sent, and its answer is what the log says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::world::{From, PATIENCE, PLUGIN, World};
use crate::bus::commands::{Answer, CommandError};
use crate::command::{Command, Verdict};
use crate::effects::OutcomeKind;
use crate::event::{Key, KeySequence, Position};
use crate::log::disk::sim::Crash;
use crate::log::{AppendError, ReadError};

const BOTH: [From; 2] = [From::Log, From::Checkpoint];

fn command(key: &str, body: &str) -> Command {
    Command {
        name: "list".to_owned(),
        key: Key::new(key).unwrap(),
        principal: "shop".into(),
        content_type: String::new(),
        data: Bytes::copy_from_slice(body.as_bytes()),
        parameters: Vec::new(),
        expected: None,
        idempotency_key: None,
    }
}

/// That is known when it comes again.
fn once(key: &str, body: &str, idempotency_key: &str) -> Command {
    Command { idempotency_key: Some(idempotency_key.to_owned()), ..command(key, body) }
}

async fn send(world: &World, command: Command) -> Result<Answer, CommandError> {
    let to = world.runner.version().deliverer.clone();
    world.bus.command(&to, command, || Ok(())).await
}

/// What the plugin answered.
fn body(answer: &Answer) -> &str {
    match &answer.verdict {
        Verdict::Answered(response) => std::str::from_utf8(&response.data).unwrap(),
        verdict => panic!("{verdict:?}"),
    }
}

fn known(world: &World) -> Vec<u8> {
    rmp_serde::to_vec(world.bus.ledger().commands()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_stands_in_the_order_of_its_key_and_its_answer_tells_where() {
    let world = World::new().await;
    world.publish(&["a1"]).await;
    let answer = send(&world, command("a", "two")).await.unwrap();
    assert_eq!(body(&answer), "a1 two");
    // The published event, and what each of both emitted.
    assert_eq!((answer.sequence, answer.repeated), (Some(KeySequence(3)), false));
    assert!(answer.position < answer.last_position);
    // What the answer speaks of is there for everybody.
    assert_eq!(world.ids("a"), "a1 two");
    world.publish(&["a2"]).await;
    world.until_listed(&[("a", "a1 two a2")]).await;
    let event = world.bus.event(answer.position).await.unwrap().unwrap();
    assert_eq!((&*event.kind, &*event.principal), ("tidegate.command", "shop"));
    assert_eq!(event.sequence, KeySequence(0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_gets_the_same_answer_and_runs_nothing() {
    let world = World::new().await;
    let first = send(&world, once("a", "one", "i-1")).await.unwrap();
    let again = send(&world, once("a", "one", "i-1")).await.unwrap();
    assert_eq!(again, Answer { repeated: true, ..first });
    let other = send(&world, once("a", "another", "i-1")).await.unwrap_err();
    let position = again.position;
    assert_eq!(other, CommandError::IdempotencyConflict { position });
    // Another name, another key, and no `Idempotency-Key` are each another command.
    let named = Command { name: "other".to_owned(), ..once("a", "one", "i-1") };
    assert!(!send(&world, named).await.unwrap().repeated);
    assert!(!send(&world, once("b", "one", "i-1")).await.unwrap().repeated);
    for _ in 0..2 {
        assert!(!send(&world, command("b", "one")).await.unwrap().repeated);
    }
    assert_eq!((world.ids("a"), world.ids("b")), ("one one".into(), "one one one".into()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_waits_for_the_first_that_still_runs() {
    let world = World::new().await;
    let twenty = (0..20).map(|_| send(&world, once("a", "one", "i-1")));
    let answers = futures_util::future::join_all(twenty).await;
    let firsts = answers.iter().filter(|answer| !answer.as_ref().unwrap().repeated).count();
    assert_eq!(firsts, 1);
    let commits: BTreeSet<_> = answers.iter().map(|a| a.as_ref().unwrap().commit).collect();
    assert_eq!((commits.len(), world.ids("a")), (1, "one".to_owned()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_kind_are_the_same_after_a_crash() {
    for from in BOTH {
        let old = World::new().await;
        old.script.breaks(&["traps"]);
        *old.script.rejected.lock().unwrap() = ["rejected".to_owned()].into();
        let conflicting = Command { expected: Some(KeySequence(9)), ..once("a", "x", "i-4") };
        let sent = [
            once("a", "ok", "i-1"),
            once("a", "rejected", "i-2"),
            once("a", "traps", "i-3"),
            conflicting,
        ];
        let mut before = Vec::new();
        for command in &sent {
            before.push(send(&old, command.clone()).await.unwrap());
        }
        let world = old.crash(Crash::LosesAll, from).await;
        assert_eq!(known(&world), known(&old), "{from:?}");
        for (command, before) in sent.iter().zip(before) {
            let again = send(&world, command.clone()).await.unwrap();
            assert_eq!(again, Answer { repeated: true, ..before }, "{from:?}");
        }
        assert_eq!(world.ids("a"), "ok");
        world.assert_once(&["ok"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ran_when_the_host_died_runs_and_answers_who_asks_again() {
    for from in BOTH {
        let old = World::new().await;
        old.script.endless.lock().unwrap().insert("slow".to_owned());
        let sending = send(&old, once("a", "slow", "i-1"));
        tokio::pin!(sending);
        tokio::select! {
            answer = &mut sending => panic!("{answer:?}"),
            () = old.until_handed("slow") => {}
        }
        old.bus.until_durable(Position(1)).await.unwrap();
        old.script.endless.lock().unwrap().clear();
        let world = old.crash(Crash::LosesAll, from).await;
        let answer = send(&world, once("a", "slow", "i-1")).await.unwrap();
        assert_eq!((body(&answer), answer.repeated), ("slow", true), "{from:?}");
        world.assert_once(&["slow"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_commands_with_the_same_expected_sequence_one_wins() {
    let world = World::new().await;
    for round in 0..10_u64 {
        let expected = Some(KeySequence(round));
        let sent = (0..8)
            .map(|n| send(&world, Command { expected, ..command("a", &format!("{round}.{n}")) }));
        let answers = futures_util::future::join_all(sent).await;
        let mut won = 0;
        for answer in answers {
            match answer.unwrap().verdict {
                Verdict::Answered(_) => won += 1,
                Verdict::SequenceConflict { expected, actual } => {
                    assert_eq!((expected.0, actual.0), (round, round + 1));
                }
                failed @ Verdict::Failed { .. } => panic!("{failed:?}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(world.ids("a").split(' ').count(), 10);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_says_how_and_leaves_nothing_behind() {
    let world = World::with("[retry]\non-failure = \"pause\"\non-reject = \"park\"\n").await;
    world.script.breaks(&["traps"]);
    *world.script.rejected.lock().unwrap() = ["rejected".to_owned()].into();
    for (body, outcome, reason) in [
        ("traps", OutcomeKind::Trap, "unreachable"),
        ("rejected", OutcomeKind::Reject, "no rejected"),
    ] {
        let answer = send(&world, command("a", body)).await.unwrap();
        let reason = reason.to_owned();
        assert_eq!(answer.verdict, Verdict::Failed { outcome, reason });
        assert_eq!(world.script.deliveries(body).len(), 1, "it is tried once");
    }
    assert!(world.letters().is_empty() && !world.is_parked("a"));
    let answer = send(&world, command("a", "ok")).await.unwrap();
    assert_eq!(body(&answer), "ok");
    world.assert_once(&["ok"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_may_not_run_is_not_in_the_log_and_may_come_again() {
    let world = World::new().await;
    let to = world.runner.version().deliverer.clone();
    let why = CommandError::Unavailable("not now".to_owned());
    let last = world.bus.last_position();
    let refused = world.bus.command(&to, once("a", "one", "i-1"), || Err(why.clone())).await;
    assert_eq!(refused, Err(why));
    assert_eq!(world.bus.last_position(), last);
    let answer = send(&world, once("a", "one", "i-1")).await.unwrap();
    assert!(!answer.repeated && answer.position > Position(0));
    // One that is known is answered, whether or not it may run.
    let why = CommandError::Unavailable("not now".to_owned());
    let again = world.bus.command(&to, once("a", "one", "i-1"), || Err(why)).await.unwrap();
    assert!(again.repeated);
    assert_eq!(world.bus.ledger().instance(PLUGIN).unwrap().outcomes[0], 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_a_stop_is_told_that_the_command_is_in_the_log() {
    let world = World::new().await;
    assert_eq!(body(&send(&world, once("a", "one", "i-1")).await.unwrap()), "one");
    world.runner.pause();
    let waits = async {
        let completed = world.runner.until_completed(Position(99));
        let sent = [once("a", "two", "i-2"), once("a", "two", "i-2"), command("a", "three")];
        let sent = sent.map(|command| send(&world, command));
        tokio::join!(completed, futures_util::future::join_all(sent))
    };
    let stops = async {
        world.until("both are in the log", |world| world.bus.last_position() >= Position(4)).await;
        world.bus.stop_answering();
    };
    let ((completed, sent), ()) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(waits, stops) }).await.unwrap();
    assert!(matches!(completed, Err(ReadError::Closed)), "{completed:?}");
    assert!(world.runner.until_completed(Position(1)).await.is_ok(), "it is");
    for answer in &sent {
        match answer {
            Err(CommandError::Stopped { position }) => assert!(position.0 > 2),
            // Its first had not been in the log yet.
            Err(CommandError::Append(AppendError::ShuttingDown)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(sent[0], Err(CommandError::Stopped { .. })), "{sent:?}");
    world.stop().await;
}

/// Of an event that the plugin does not even subscribe to, and that is written together with the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_counts_what_is_written_together_with_the_command() {
    let world = Arc::new(World::with("[subscribe]\ntypes = [\"thing.else\"]\n").await);
    world.disk.hold_syncs();
    let first = world.publishing(&["x1"]);
    while !world.disk.holds_a_sync() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let second = world.publishing(&["a1"]);
    let (sender, expected) = (Arc::clone(&world), Some(KeySequence(1)));
    let answer = tokio::spawn(async move {
        send(&sender, Command { expected, ..command("a", "two") }).await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.disk.release_a_sync();
    first.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(world.script.deliveries("two").is_empty() && !second.is_finished());
    world.disk.release_syncs();
    assert_eq!(body(&answer.await.unwrap()), "two");
    Arc::into_inner(world).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_judges_a_condition_as_it_was_judged_then() {
    let mut world = World::new().await;
    let expecting =
        |sequence, body| Command { expected: Some(KeySequence(sequence)), ..command("a", body) };
    for (sequence, text) in [(0, "one"), (1, "two"), (1, "late"), (2, "three")] {
        let answer = send(&world, expecting(sequence, text)).await.unwrap();
        let conflicts = matches!(answer.verdict, Verdict::SequenceConflict { .. });
        assert_eq!(conflicts, text == "late");
    }
    assert_eq!(world.ids("a"), "one two three");
    // Of a rewind, and of one more, which repeats what has no answer of its own.
    for mark in ["!", "?"] {
        let before = world.plugin().generation;
        world = world.rewind(0, mark).await;
        world.until_rebuilt().await;
        assert!(world.plugin().generation > before);
        assert_eq!(world.ids("a"), format!("one{mark} two{mark} three{mark}"));
    }
    world.assert_once(&["one", "two", "three"]).await;
    world.stop().await;
}
