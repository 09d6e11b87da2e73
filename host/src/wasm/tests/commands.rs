//! The entries beside the handler: commands, questions, upcasters.

use super::*;

fn request(data: &str) -> Request {
    Request {
        operation: "set".to_owned(),
        key: Some(Key::new("k").unwrap()),
        principal: String::new(),
        content_type: "text/plain".to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        attributes: vec![("a".to_owned(), "b".to_owned())],
    }
}

#[tokio::test]
async fn a_command_answers_and_writes() {
    let mut plugin = Plugin::load(guests::service()).await;
    let exports = Exports { handler: true, command: true, query: true, upcaster: false };
    assert_eq!(plugin.module.exports, exports);
    let given = plugin.given(".");
    let done = plugin.module.execute(&mut plugin.slot, given.delivery(), request("seven")).await;
    assert_ok(&done);
    assert_eq!(&*done.effects.response.unwrap().data, b"seven");
    assert_eq!(done.effects.state.first().unwrap().value.as_deref(), Some(&b"seven"[..]));
    assert_ok(&plugin.deliver(".").await);
}

#[tokio::test]
async fn an_answer_counts_as_output() {
    let mut plugin = Plugin::load(guests::service()).await;
    plugin.limits.output_bytes_max = 15;
    // `count` and `seven` are 10 bytes of state, `seven` another 5 of answer.
    for (data, expected) in [("seven", OutcomeKind::Ok), ("eleven", OutcomeKind::Output)] {
        let given = plugin.given(".");
        let done = plugin.module.execute(&mut plugin.slot, given.delivery(), request(data)).await;
        assert_eq!(done.outcome.kind(), expected);
    }
}

#[tokio::test]
async fn a_question_sees_other_keys_and_writes_nothing() {
    let mut plugin = Plugin::load(guests::service()).await;
    let values = Values::of(&[("k/count", "41")]);
    let question = Question {
        request: request(""),
        now_ms: 1,
        seed: seed(),
        config: plugin.config.clone(),
        limits: Arc::new(plugin.limits.clone()),
        state: values.clone(),
        keys: values,
    };
    let done = plugin.module.read(&mut plugin.slot, question).await;
    assert_ok(&done);
    assert_eq!(&*done.effects.response.unwrap().data, b"41");
    assert!(done.effects.state.is_empty());
}

#[tokio::test]
async fn an_upcaster_lifts_and_only_upwards() {
    let mut plugin = Plugin::load(guests::upcaster(2)).await;
    let given = plugin.given("old");
    let lifted = plugin.module.upcast(&mut plugin.slot, given.delivery(), 1).await;
    assert_ok(&lifted.invocation);
    let lifted = lifted.lifted.unwrap();
    assert_eq!((lifted.version, &*lifted.data), (2, &b"old"[..]));
    let same = plugin.module.upcast(&mut plugin.slot, given.delivery(), 2).await;
    assert_eq!(same.invocation.outcome.kind(), OutcomeKind::Trap);
    assert_eq!(same.lifted, None);
}

#[tokio::test]
async fn an_entry_that_is_not_there_says_so() {
    let mut plugin = Plugin::load(guests::upcaster(2)).await;
    let done = plugin.deliver(".").await;
    assert!(done.outcome.reason().contains("`handler`"), "{:?}", done.outcome);
}
