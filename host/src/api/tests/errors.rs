//! Every code, as clients get it.

use std::collections::HashSet;

use super::Fixture;
use crate::api::errors::{ApiError, Code};
use crate::api::host::PublishError;
use crate::event::{KeySequence, Position};

#[test]
fn codes_are_distinct_and_statuses_are_those_of_the_table() {
    let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), Code::ALL.len());
    for (name, status) in [
        ("invalid_json", 400),
        ("invalid_field", 422),
        ("invalid_key", 422),
        ("too_large", 413),
        ("headers_too_large", 431),
        ("unsupported_media_type", 415),
        ("unauthorized", 401),
        ("missing_role", 403),
        ("not_found", 404),
        ("id_conflict", 409),
        ("sequence_conflict", 409),
        ("queue_full", 429),
        ("storage_full", 507),
        ("read_only", 503),
        ("shutting_down", 503),
    ] {
        let code = Code::ALL.iter().find(|code| code.name() == name).unwrap();
        assert_eq!(code.status().as_u16(), status, "{name}");
    }
    let error = ApiError::new(Code::QueueFull, "full").render("r");
    assert!(error.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn what_the_log_refuses_is_told() {
    let server = Fixture::default().await;
    let cases = [
        (PublishError::QueueFull, 429, "queue_full"),
        (PublishError::StorageFull, 507, "storage_full"),
        (PublishError::ReadOnly("fsync failed".to_owned()), 503, "read_only"),
        (PublishError::ShuttingDown, 503, "shutting_down"),
        (PublishError::IdConflict { index: 0, position: Position(4) }, 409, "id_conflict"),
        (PublishError::TooLarge { limit: 1, actual: 2 }, 413, "too_large"),
        (PublishError::TooMany { limit: 1, actual: 2 }, 413, "too_large"),
        (PublishError::Internal("broken".to_owned()), 500, "internal"),
    ];
    for (refusal, status, code) in cases {
        *server.host.refuse.lock().unwrap() = Some(refusal);
        let answer = server.publish_keyed(1, "k").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        let id = answer.json()["error"]["request_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("x-request-id"), Some(&*id));
        assert!(answer.json()["error"].get("index").is_none(), "{answer:?}");
    }
    let conflict = PublishError::SequenceConflict {
        index: 0,
        expected: KeySequence(1),
        actual: KeySequence(5),
    };
    *server.host.refuse.lock().unwrap() = Some(conflict);
    let error = server.publish_keyed(1, "k").await.json()["error"].clone();
    assert_eq!((error["expected"].as_u64(), error["actual"].as_u64()), (Some(1), Some(5)));
}

#[tokio::test]
async fn what_is_not_there_is_told_in_json() {
    let server = Fixture::default().await;
    for (request, status, code) in [
        ("GET /console", 404, "not_found"),
        ("GET /v1/nothing", 404, "not_found"),
        ("GET /v1/plugins/other", 404, "not_found"),
        ("GET /v1/plugins/%ff", 422, "invalid_field"),
        ("GET /v1/events/9", 404, "not_found"),
        ("GET /v1/events/nine", 422, "invalid_field"),
        ("GET /v1/events?bus=other", 404, "not_found"),
        ("GET /v1/events?limit=0", 422, "invalid_field"),
        ("GET /v1/events?limit=1001", 422, "invalid_field"),
        ("GET /v1/events?from=now", 422, "invalid_field"),
        ("GET /v1/events?cursor=x", 422, "invalid_field"),
        ("GET /v1/events?cursor=9-1", 422, "invalid_field"),
        ("GET /v1/events?key=", 422, "invalid_key"),
        ("GET /v1/events?key=a&key=b", 422, "invalid_field"),
        ("GET /v1/plugins/totals/state", 422, "invalid_field"),
        ("GET /v1/plugins/totals/state?key=k&name=none", 404, "not_found"),
        ("POST /v1/plugins/totals/rename?to=Bad%20Name", 422, "invalid_field"),
        ("POST /v1/plugins/totals/rename", 422, "invalid_field"),
        ("DELETE /v1/plugins/totals", 409, "conflict"),
        ("GET /v1/dead-letters/7", 404, "not_found"),
        ("GET /v1/dead-letters?outcome=bad", 422, "invalid_field"),
        ("GET /v1/dead-letters?cursor=zzz", 422, "invalid_field"),
        ("GET /v1/dead-letters?cursor=main:", 422, "invalid_field"),
        ("PUT /v1/events", 405, "method_not_allowed"),
    ] {
        let answer = server.send(&format!("{request} HTTP/1.1"), b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{request}");
    }
    let answer = server.get("/v1/events?typ=a").await;
    assert_eq!(answer.json()["error"]["field"], "typ");
    assert!(answer.body.contains("did you mean `type`?"), "{answer:?}");
    assert!(server.send("PUT /v1/events HTTP/1.1", b"").await.header("allow").is_some());
}
