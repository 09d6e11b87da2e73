//! What the routes answer, and that none is open.

use std::sync::Arc;

use super::Fixture;
use crate::api::ServerOptions;
use crate::api::auth::Tokens;

/// Of `secret`, which may do everything, and of `other`, which may publish.
const TOKENS: &str = "
[[tokens]]
name = 'ops'
sha256 = '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'
roles = ['admin']
[[tokens]]
name = 'shop'
sha256 = 'd9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa'
roles = ['publish']
";

async fn with_tokens() -> Fixture {
    let tokens = Some(Arc::new(Tokens::parse(TOKENS).unwrap()));
    Fixture::start(ServerOptions { tokens, ..ServerOptions::default() }).await
}

/// Every method and path of the OpenAPI document, with path parameters filled in.
async fn every_route(server: &Fixture) -> Vec<(String, String)> {
    let head = "GET /openapi.json HTTP/1.1\r\nauthorization: Bearer secret";
    let document = server.send(head, b"").await.json();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let path = path
                .replace("{plugin}", "totals")
                .replace("{bus}", "main")
                .replace("{position}", "1")
                .replace("{id}", "1")
                .replace("{name}", "open")
                .replace("{path}", "all");
            routes.push((method.to_uppercase(), path));
        }
    }
    assert!(routes.len() >= 20, "{routes:?}");
    routes
}

#[tokio::test]
async fn every_route_but_the_probes_needs_a_token() {
    let server = with_tokens().await;
    let mut open = Vec::new();
    for (method, path) in every_route(&server).await {
        let mut bodies = Vec::new();
        for auth in ["", "\r\nauthorization: Bearer wrong", "\r\nauthorization: Basic secret"] {
            let answer = server.send(&format!("{method} {path} HTTP/1.1{auth}"), b"").await;
            if answer.status != 401 {
                open.push(path.clone());
                break;
            }
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            bodies.push(answer.json()["error"]["message"].clone());
        }
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{method} {path}");
        if method != "POST" && !open.contains(&path) {
            let head = format!("{method} {path} HTTP/1.1\r\nauthorization: Bearer other");
            let answer = server.send(&head, b"").await;
            assert_eq!(answer.code(), "missing_role", "{method} {path}");
        }
    }
    assert_eq!(open, ["/healthz", "/readyz"]);
    assert_eq!(server.get("/no/such/route").await.status, 401);
}

#[tokio::test]
async fn a_token_names_publisher_and_actor() {
    let server = with_tokens().await;
    let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"a"}"#;
    let headers =
        [("content-type", "application/cloudevents+json"), ("authorization", "Bearer other")];
    assert_eq!(server.post("/v1/events", &headers, event).await.status, 200);
    assert_eq!(&*server.host.events()[0].principal, "shop");
    let ops = [("authorization", "Bearer secret")];
    let paused = server.post("/v1/plugins/totals/pause?reason=because", &ops, b"").await;
    assert_eq!((paused.status, paused.json()["state"].as_str()), (200, Some("paused")));
    let stepped = server.post("/v1/buses/main/follow-clock", &ops, b"").await;
    assert_eq!(
        (stepped.status, stepped.json()["before"].as_str()),
        (200, Some("1970-01-01T00:00:00.000Z"))
    );
    assert_eq!(*server.host.actors.lock().unwrap(), ["ops", "ops"]);
    for (bus, status) in [("live", 409), ("none", 404)] {
        let answer = server.post(&format!("/v1/buses/{bus}/follow-clock"), &ops, b"").await;
        assert_eq!(answer.status, status, "{bus}");
    }
}

#[tokio::test]
async fn every_documented_answer_of_get_is_given() {
    let server = Fixture::default().await;
    server.publish_keyed(1, "k").await;
    for (method, path) in every_route(&server).await {
        let streams = path.ends_with("/stream");
        if method != "GET" || streams {
            continue;
        }
        let of_key = path.ends_with("/state") || path.ends_with("/keys");
        let path = if of_key { format!("{path}?key=k") } else { path };
        let answer = server.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// `%ff` and `%fe` once were one key, U+FFFD.
#[tokio::test]
async fn what_is_no_text_in_an_address_is_refused_on_every_route() {
    let server = Fixture::default().await;
    for (method, path) in every_route(&server).await {
        let code = |path: String| {
            let head = format!("{method} {path} HTTP/1.1\r\ncontent-length: 0");
            let server = &server;
            async move {
                let answer = server.send(&head, b"").await;
                (answer.status, answer.code())
            }
        };
        let expected = |code: &str| (422, code.to_owned());
        assert_eq!(code(format!("{path}?key=%ff")).await, expected("invalid_key"), "{path}");
        assert_eq!(code(format!("{path}?a=%C3")).await, expected("invalid_field"), "{path}");
        assert_eq!(code(format!("{path}?%fe=b")).await, expected("invalid_field"), "{path}");
        assert_eq!(code(format!("{path}%fe")).await, expected("invalid_field"), "{path}");
    }
    // A `%` that begins no escape is one, and what is text is not touched.
    for key in ["100%", "%C3%A9", "a%2Fb+c"] {
        let path = format!("/v1/plugins/totals/command/open?key={key}");
        assert_eq!(server.post(&path, &[], b"").await.status, 200, "{key}");
    }
}

#[tokio::test]
async fn the_document_names_errors_schemas_and_no_dangling_reference() {
    let server = Fixture::default().await;
    let text = server.get("/openapi.json").await.body;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let publish = &document["paths"]["/v1/events"]["post"];
    for status in
        ["200", "400", "401", "403", "409", "413", "415", "422", "429", "431", "503", "507"]
    {
        assert!(publish["responses"].get(status).is_some(), "{status}");
    }
    assert_eq!(publish["requestBody"]["required"], true);
    for path in ["diff", "command/{name}", "query/{path}"] {
        let asked = &document["paths"][format!("/v1/plugins/{{plugin}}/{path}")]["post"];
        assert_ne!(asked["requestBody"]["required"], true, "{path} is asked without a body, too");
    }
    for path in ["plugins/{plugin}/keys", "plugins/{plugin}/state", "dead-letters/{id}/delivery"] {
        let shown = &document["paths"][format!("/v1/{path}")]["get"]["responses"];
        assert!(shown.get("409").is_some(), "{path}");
    }
    let of = |content: &serde_json::Value| {
        let types = content["content"].as_object().unwrap();
        types.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let modes = "*/* application/cloudevents+json";
    assert_eq!(of(&publish["requestBody"]), format!("{modes} application/cloudevents-batch+json"));
    let event = &document["paths"]["/v1/events/{position}"]["get"]["responses"]["200"];
    assert_eq!(of(event), modes);
    let query = &document["paths"]["/v1/plugins/{plugin}/query/{path}"];
    let answer = &query["get"]["responses"]["200"];
    assert_eq!(answer["content"]["*/*"]["schema"].get("type"), None, "{answer}");
    let metrics = &document["paths"]["/metrics"]["get"]["responses"]["200"];
    for (answer, name) in [
        (answer, "Tidegate-Commit"),
        (answer, "Tidegate-Position"),
        (answer, "Tidegate-Sequence"),
        (answer, "Content-Security-Policy"),
        (&publish["responses"]["200"], "Server-Timing"),
        (metrics, "Vary"),
    ] {
        assert!(answer["headers"].get(name).is_some(), "{name}: {answer}");
    }
    assert_eq!(answer, &query["post"]["responses"]["200"]);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let busy = |status: &&str| responses.contains_key(*status);
            for status in ["429", "503", "507"].iter().copied().filter(busy) {
                let declared = responses[status]["headers"].get("Retry-After");
                assert!(declared.is_some(), "{method} {path} {status}");
            }
        }
    }
    for reference in text.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn a_module_comes_as_what_it_is() {
    let server = Fixture::default().await;
    let path = "/v1/plugins/totals/diff";
    for (headers, body, status) in [
        (&[][..], &b""[..], 200),
        (&[("content-type", "text/plain")], b"", 200),
        (&[("content-type", "Application/Wasm")], b"\0asm", 200),
        (&[("content-type", "application/json")], b"\0asm", 415),
        (&[], b"\0asm", 415),
    ] {
        let answer = server.post(path, headers, body).await;
        assert_eq!(answer.status, status, "{headers:?} {answer:?}");
    }
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let server = Fixture::default().await;
    for (accept, content_type, body) in [
        ("*/*", "application/openmetrics-text; version=1.0.0; charset=utf-8", "# EOF\n"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8", ""),
    ] {
        let answer = server.send(&format!("GET /metrics HTTP/1.1\r\naccept: {accept}"), b"").await;
        assert_eq!((answer.header("content-type"), &*answer.body), (Some(content_type), body));
    }
}

#[tokio::test]
async fn published_events_are_read_back() {
    let server = Fixture::default().await;
    for id in 1..=5 {
        let answer = server.publish_keyed(id, if id % 2 == 0 { "even" } else { "odd" }).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.header("server-timing").unwrap().starts_with("durable;dur="));
        assert_eq!(answer.json()[0]["position"], u64::from(id));
    }
    assert_eq!(server.publish_keyed(5, "odd").await.json()[0]["duplicate"], true);
    let page = server.get("/v1/events?type=order.*&key=odd&limit=2").await;
    assert_eq!(page.header("content-type"), Some("application/cloudevents-batch+json"));
    assert_eq!(page.json().as_array().unwrap().len(), 2);
    assert_eq!(page.json()[1]["tidegatesequence"], "2");
    let link = page.header("link").unwrap();
    let next = link.split(['<', '>']).nth(1).unwrap();
    assert!(next.contains(page.header("tidegate-cursor").unwrap()), "{link}");
    let rest = server.get(next).await;
    assert_eq!(rest.json().as_array().unwrap().len(), 1);
    assert_eq!(rest.header("link"), None);

    let one = server.get("/v1/events/2").await;
    assert_eq!(one.json()["data"]["n"], 2);
    let binary = server.get("/v1/events/2?mode=binary").await;
    assert_eq!((binary.header("ce-id"), &*binary.body), (Some("2"), "{\"n\": 2}"));
    let batch = [("content-type", "application/cloudevents-batch+json")];
    assert_eq!(server.post("/v1/events", &batch, b"[]").await.body, "[]");
}

#[tokio::test]
async fn nobody_acts_on_all_dead_letters_by_saying_nothing() {
    let server = Fixture::default().await;
    let act = "/v1/dead-letters/redrive";
    for (query, status) in [
        ("", 422),
        ("?all=false", 422),
        ("?all=true&plugin=totals", 422),
        ("?id=2", 404),
        ("?all=true", 200),
        ("?plugin=totals&outcome=trap", 200),
    ] {
        let answer = server.post(&format!("{act}{query}"), &[], b"").await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    let discard = "/v1/dead-letters/discard?id=1";
    assert_eq!(server.post(discard, &[], b"").await.json()["error"]["field"], "reason");
    let discarded = server.post(&format!("{discard}&reason=old"), &[], b"").await;
    assert_eq!(discarded.json()["count"], 1);
    let held = server.post("/v1/plugins/totals/keys/hold?key=k&reason=why", &[], b"").await;
    assert_eq!(
        (held.json()["state"].as_str(), held.json()["reason"].as_str()),
        (Some("held"), Some("why"))
    );
}

#[tokio::test]
async fn state_is_text_or_base64() {
    let server = Fixture::default().await;
    let state = "/v1/plugins/totals/state?key=k";
    assert_eq!(server.get(&format!("{state}&name=count")).await.json()["value"], "25");
    assert_eq!(server.get(&format!("{state}&name=raw")).await.json()["value_base64"], "/wA=");
    let first = server.get(&format!("{state}&limit=1")).await.json();
    assert_eq!(
        (first["values"][0]["name"].as_str(), first["next"].as_str()),
        (Some("count"), Some("count"))
    );
}

#[tokio::test]
async fn readiness_says_what_is_waited_for() {
    let server = Fixture::default().await;
    *server.host.waiting_for.lock().unwrap() = vec!["totals".to_owned()];
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
    assert!(answer.body.contains("totals"));
    server.host.waiting_for.lock().unwrap().clear();
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_draining_server_refuses_events_and_answers_the_rest() {
    let mut server = Fixture::default().await;
    server.handle.drain();
    let answer = server.publish_keyed(1, "k").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "shutting_down"));
    assert_eq!(server.get("/v1/status").await.json()["draining"], true);
    server.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(super::PATIENCE, &mut server.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_console_is_for_everybody_and_lets_nothing_else_in() {
    let server = with_tokens().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));

    let tag = page.header("etag").unwrap();
    let again = server.send(&format!("GET / HTTP/1.1\r\nif-none-match: {tag}"), b"").await;
    assert_eq!((again.status, again.header("etag")), (304, Some(tag)));
    assert!(again.body.is_empty());
    let head = format!("GET /console/main.js HTTP/1.1\r\nif-none-match: {tag}");
    let script = server.send(&head, b"").await;
    assert_eq!(script.status, 200);
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    let denied = server.send("POST / HTTP/1.1", b"").await;
    assert_eq!(denied.status, 401);
}
