//! Commands and queries, as clients see them.

use super::Fixture;

#[tokio::test]
async fn a_command_says_all_that_it_should_to_the_plugin() {
    let server = Fixture::default().await;
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "i-1"),
        ("tidegate-expected-sequence", "4"),
    ];
    let path = "/v1/plugins/totals/command/open%20it?key=a%2F1&b=2&a=%C3%BC";
    let answer = server.post(path, &headers, b"{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for said in [
        r#"name: "open it""#,
        r#"key: Key("a/1")"#,
        r#"content_type: "application/json""#,
        r#"data: b"{}""#,
        r#"parameters: [("a", "\u{fc}"), ("b", "2")]"#,
        "expected: Some(KeySequence(4))",
        r#"idempotency_key: Some("i-1")"#,
    ] {
        let said = said.replace("\\u{fc}", "\u{fc}");
        assert!(answer.body.contains(&said), "{said} not in {}", answer.body);
    }
    for (name, value) in [
        ("content-type", "text/html"),
        ("tidegate-commit", "7"),
        ("tidegate-position", "9"),
        ("tidegate-sequence", "3"),
        ("tidegate-repeated", "true"),
        ("tidegate-attribute-sum", "40%20%E2%82%AC"),
        ("content-security-policy", "sandbox"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_command_that_fails_says_how() {
    let server = Fixture::default().await;
    for (name, status, code) in [
        ("reject", 422, "rejected"),
        ("trap", 500, "trap"),
        ("retry", 503, "retry"),
        ("timeout", 504, "timeout"),
    ] {
        let path = format!("/v1/plugins/totals/command/{name}?key=k");
        let answer = server.post(&path, &[], b"").await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
        for (key, repeated) in [("first", None), ("again", Some("true"))] {
            let answer = server.post(&path, &[("idempotency-key", key)], b"").await;
            assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
            assert_eq!(answer.header("tidegate-repeated"), repeated, "{answer:?}");
            assert_eq!(answer.header("retry-after"), None, "it would be the same: {answer:?}");
        }
    }
    let answer = server.post("/v1/plugins/totals/command/retry?key=k", &[], b"").await;
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    assert_eq!(answer.header("tidegate-repeated"), None);
    let answer = server.post("/v1/plugins/other/command/x?key=k", &[], b"").await;
    assert_eq!((answer.status, &*answer.code()), (404, "not_found"));
}

#[tokio::test]
async fn a_malformed_command_is_refused_and_the_fault_named() {
    let server = Fixture::default().await;
    let long = "x".repeat(256);
    for (query, headers, code, field) in [
        ("", vec![], "invalid_field", "key"),
        ("key=", vec![], "invalid_key", "key"),
        ("key=k&Not-A-Name=1", vec![], "invalid_field", "Not-A-Name"),
        ("key=k&a=%0A", vec![], "invalid_field", "a"),
        ("key=k", vec![("idempotency-key", "")], "invalid_field", "Idempotency-Key"),
        ("key=k", vec![("idempotency-key", &*long)], "invalid_field", "Idempotency-Key"),
        (
            "key=k",
            vec![("tidegate-expected-sequence", "x")],
            "invalid_field",
            "Tidegate-Expected-Sequence",
        ),
    ] {
        let path = format!("/v1/plugins/totals/command/open?{query}");
        let answer = server.post(&path, &headers, b"").await;
        let found = answer.json()["error"]["field"].clone();
        assert_eq!((&*answer.code(), found.as_str()), (code, Some(field)), "{query} {headers:?}");
    }
    let body = vec![b'x'; 1024 * 1024 + 1];
    let answer = server.post("/v1/plugins/totals/command/open?key=k", &[], &body).await;
    assert_eq!(answer.code(), "too_large");
}

#[tokio::test]
async fn a_query_says_all_that_it_should_to_the_plugin() {
    let server = Fixture::default().await;
    let answer = server.get("/v1/plugins/totals/query/orders/o%201?key=k&b=2&a=1").await;
    for said in [
        r#"path: "orders/o 1""#,
        r#"key: Some(Key("k"))"#,
        r#"parameters: [("a", "1"), ("b", "2")]"#,
        "wait: None",
    ] {
        assert!(answer.body.contains(said), "{said} not in {}", answer.body);
    }
    assert_eq!(answer.header("tidegate-commit"), Some("7"));
    let headers = [("content-type", "text/plain")];
    let answer = server.post("/v1/plugins/totals/query/all", &headers, b"body").await;
    for said in [r#"content_type: "text/plain""#, r#"data: b"body""#, "key: None"] {
        assert!(answer.body.contains(said), "{said} not in {}", answer.body);
    }
    let answer = server.get("/v1/plugins/totals/query/all?wait=4").await;
    assert_eq!((answer.status, &*answer.code()), (504, "wait_timeout"));
    assert_eq!(answer.json()["error"]["position"], 4);
    let answer = server.get("/v1/plugins/totals/query/all?wait=x").await;
    assert_eq!(answer.code(), "invalid_field");
    assert_eq!(answer.json()["error"]["field"], "wait");
}
