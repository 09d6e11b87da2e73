//! Conformance with CloudEvents 1.0: what comes in in one mode goes out in every mode.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use crate::api::cloudevents::{self, BadEvent, BadInput, read, read_line, to_binary, write_json};
use crate::api::errors::ApiError;
use crate::api::host::Publish;
use crate::event::{CommitNumber, Event, KeySequence, KeyVariant, Position};

/// Events of the kinds people send: permits, and webhooks with nested, escaped and numeric data.
const SAMPLES: &str = include_str!("samples.ndjson");

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(*name).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn structured(json: &str) -> Result<Publish, ApiError> {
    let headers = headers(&[("content-type", "application/cloudevents+json; charset=UTF-8")]);
    Ok(read(&headers, &Bytes::copy_from_slice(json.as_bytes()))?.remove(0))
}

/// An event with these members beside the required ones.
fn with(members: &str) -> Result<Publish, ApiError> {
    structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"a.b"{members}}}"#))
}

fn stored(publish: Publish) -> Event {
    Event {
        position: Position(7),
        sequence: KeySequence(u64::from(publish.event.key.is_some())),
        recorded_ms: 1_800_000_000_123,
        commit: CommitNumber(9),
        body: publish.event,
    }
}

#[test]
fn every_sample_survives_every_mode() {
    for line in SAMPLES.lines() {
        let first = read_line(line.as_bytes()).unwrap();
        let event = stored(first.clone());
        let again = read_line(&write_json(&event)).unwrap();
        assert_eq!(again, first, "structured: {line}");

        let (attributes, body) = to_binary(&event);
        let mut pairs: Vec<_> = attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        pairs.push(("content-type", &event.content_type));
        let again = read(&headers(&pairs), &body).unwrap();
        assert_eq!(again, std::slice::from_ref(&first), "binary: {line}");

        let batch = Bytes::from(cloudevents::write_batch([&event, &event].into_iter()));
        let batch_type = headers(&[("content-type", cloudevents::BATCH)]);
        assert_eq!(read(&batch_type, &batch).unwrap(), [first.clone(), first], "batch: {line}");
    }
}

#[test]
fn json_data_is_kept_byte_for_byte() {
    for data in [r#"{ "a" : 1.10, "a":2,"ü":"\u00fc" }"#, "[1, 2]", "1e400", "\"x\"", "false"] {
        let publish = with(&format!(r#","data": {data} "#)).unwrap();
        assert_eq!(publish.event.data, data.as_bytes());
        let out = String::from_utf8(write_json(&stored(publish))).unwrap();
        assert!(out.ends_with(&format!(r#""data":{data}}}"#)), "{out}");
    }
}

#[test]
fn data_is_read_as_its_media_type_says() {
    let cases: [(&str, &[u8], &str); 8] = [
        (r#","data":null"#, b"", ""),
        (r#","data":{"a":1}"#, br#"{"a":1}"#, r#""data":{"a":1}"#),
        (r#","datacontenttype":"text/plain","data":"a\nb""#, b"a\nb", r#""data":"a\nb""#),
        // The media type may come after the data.
        (r#","data":"<a/>","datacontenttype":"application/xml""#, b"<a/>", r#""data":"<a/>""#),
        (r#","datacontenttype":"x/y+json","data":"q""#, b"\"q\"", r#""data":"q""#),
        (r#","data_base64":"AAEC/w==""#, &[0, 1, 2, 255], r#""data_base64":"AAEC/w==""#),
        (r#","data_base64":"eyJhIjoxfQ==""#, br#"{"a":1}"#, r#""data":{"a":1}"#),
        (
            r#","datacontenttype":"image/png","data_base64":"iVBO""#,
            &[0x89, 0x50, 0x4e],
            r#""data_base64":"iVBO""#,
        ),
    ];
    for (members, bytes, out) in cases {
        let publish = with(members).unwrap();
        assert_eq!(publish.event.data, bytes, "{members}");
        let json = String::from_utf8(write_json(&stored(publish))).unwrap();
        assert!(json.contains(out), "{members}: {json}");
    }
}

#[test]
fn attributes_become_canonical_text() {
    let publish =
        with(r#","zint":-12,"big":12345678901,"flag":true,"none":null,"aname":"x y""#).unwrap();
    let attributes: Vec<_> = publish.event.attributes.iter().map(|(n, v)| (&**n, &**v)).collect();
    let expected = [("aname", "x y"), ("big", "12345678901"), ("flag", "true"), ("zint", "-12")];
    assert_eq!(attributes, expected);
}

#[test]
fn the_key_is_partitionkey_else_subject() {
    let both = with(r#","partitionkey":"p","subject":"s""#).unwrap().event;
    assert_eq!((both.key.unwrap().as_str(), both.key_variant), ("p", KeyVariant::PartitionKey));
    assert_eq!(both.attributes, [("subject".into(), "s".into())]);
    let subject = with(r#","subject":"s""#).unwrap().event;
    assert_eq!((subject.key.unwrap().as_str(), subject.key_variant), ("s", KeyVariant::Subject));
    assert!(subject.attributes.is_empty());
    assert_eq!(with("").unwrap().event.key, None);
}

#[test]
fn time_keeps_its_text() {
    for (text, ms) in [
        ("2010-10-02T09:20:39.266+02:00", 1_286_004_039_266),
        ("1969-12-31T23:59:59Z", 0),
        ("2020-01-01 00:00:00z", 1_577_836_800_000),
        ("2020-01-01T00:00:00.1234567Z", 1_577_836_800_123),
    ] {
        let publish = with(&format!(r#","time":"{text}""#)).unwrap();
        let time = publish.event.time.clone().unwrap();
        assert_eq!((&*time.text, time.ms), (text, ms));
        let out = String::from_utf8(write_json(&stored(publish))).unwrap();
        assert!(out.contains(&format!(r#""time":"{text}""#)), "{out}");
    }
}

#[test]
fn a_condition_is_read_and_never_stored() {
    for member in [r#""expectedsequence":3"#, r#""expectedsequence":"3""#] {
        let publish = with(&format!(r#","subject":"k",{member}"#)).unwrap();
        assert_eq!(publish.expected, Some(KeySequence(3)));
        assert!(publish.event.attributes.is_empty());
    }
    let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"a","subject":"k"}"#;
    let pairs = [("content-type", cloudevents::STRUCTURED), ("tidegate-expected-sequence", "0")];
    let publish = read(&headers(&pairs), &Bytes::from_static(json.as_bytes())).unwrap().remove(0);
    assert_eq!(publish.expected, Some(KeySequence(0)));
    for second in ["0", "1"] {
        let pairs = [pairs[0], pairs[1], (pairs[1].0, second)];
        let error = read(&headers(&pairs), &Bytes::from_static(json.as_bytes())).unwrap_err();
        assert!(error.problem.to_string().contains("is given twice"), "{error:?}");
    }
}

#[test]
fn what_the_host_added_is_dropped_on_the_way_in() {
    let event = stored(with(r#","subject":"k","correlationid":"c""#).unwrap());
    let out = write_json(&event);
    let text = String::from_utf8(out.clone()).unwrap();
    for member in [
        r#""tidegateposition":"7""#,
        r#""tidegatesequence":"1""#,
        r#""tidegaterecorded":"2027-01-15T08:00:00.123Z""#,
    ] {
        assert!(text.contains(member), "{text}");
    }
    assert_eq!(read_line(&out).unwrap().event, event.body);
}

#[test]
fn binary_headers_are_unquoted_and_percent_decoded() {
    let pairs = [
        ("ce-specversion", "1.0"),
        ("ce-id", "100%"),
        ("ce-source", "/s%C3%BCd"),
        ("ce-type", "a.b"),
        ("ce-subject", "\"Euro %E2%82%AC \\\"x\\\"\""),
        ("ce-ext", "%41%zz"),
        ("content-type", "text/plain; charset=iso-8859-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let event = read(&headers(&pairs), &Bytes::from_static(b"\xe9")).unwrap().remove(0).event;
    assert_eq!((&*event.id, &*event.source), ("100%", "/süd"));
    assert_eq!(event.key.as_ref().unwrap().as_str(), "Euro € \"x\"");
    assert_eq!(event.attribute("ext"), Some("A%zz"));
    assert!(event.attribute("traceparent").is_some());
    assert_eq!(&*event.content_type, "text/plain; charset=iso-8859-1");
    assert_eq!(event.data, b"\xe9".as_slice());
    let again = stored(Publish { event, expected: None });
    let (out, _) = to_binary(&again);
    let subject = out.iter().find(|(name, _)| name == "ce-subject").unwrap();
    assert_eq!(subject.1, "Euro%20%E2%82%AC%20%22x%22");
}

/// Members beside the required ones, code, and what field or message must say.
const BAD_MEMBERS: [(&str, &str, &str); 34] = [
    (r#","id":"2""#, "invalid_field", "`id` is given twice"),
    (r#","data":1,"data":2"#, "invalid_field", "`data` is given twice"),
    (r#","data":1,"data_base64":"AA==""#, "invalid_field", "`data_base64`"),
    (r#","data_base64":"A""#, "invalid_field", "`data_base64`"),
    (r#","data_base64":7"#, "invalid_field", "`data_base64`"),
    (r#","Ext":"x""#, "invalid_field", "`Ext`"),
    (r#","with_underscore":null"#, "invalid_field", "`with_underscore`"),
    (r#","twentyonecharacters12":"x""#, "invalid_field", "`twentyonecharacters12`"),
    (r#","ext":{"a":1}"#, "invalid_field", "`ext`"),
    (r#","ext":[]"#, "invalid_field", "`ext`"),
    (r#","ext":1.5"#, "invalid_field", "`ext`"),
    (r#","ext":99999999999999999999"#, "invalid_field", "`ext`"),
    (r#","ext":"a\u0001""#, "invalid_field", "`ext`"),
    (r#","ext":"\ud800""#, "invalid_field", "`ext`"),
    (r#","subject":4"#, "invalid_field", "`subject`"),
    (r#","time":"yesterday""#, "invalid_field", "`time`"),
    (r#","time":"2020-01-01""#, "invalid_field", "`time`"),
    (r#","time":"2020-01-01x00:00:00Z""#, "invalid_field", "`time`"),
    (r#","datacontenttype":"json""#, "invalid_field", "`datacontenttype`"),
    (r#","datacontenttype":"""#, "invalid_field", "`datacontenttype`"),
    (r#","datacontenttype":"text/plain","data":{}"#, "invalid_field", "`data`"),
    (r#","dataschema":"""#, "invalid_field", "`dataschema`"),
    (r#","partitionkey":"""#, "invalid_key", "key"),
    (r#","partitionkey":7"#, "invalid_field", "`partitionkey` must be a string"),
    (r#","partitionkey":true"#, "invalid_field", "`partitionkey` must be a string"),
    (r#","subject":"""#, "invalid_key", "key"),
    (r#","subject":"a\nb""#, "invalid_key", "control"),
    (r#","partitionkey":"k","subject":"a\nb""#, "invalid_field", "`subject`"),
    (r#","expectedsequence":1"#, "invalid_field", "needs a key"),
    (r#","subject":"k","expectedsequence":-1"#, "invalid_field", "`expectedsequence`"),
    (r#","subject":"k","expectedsequence":"+1""#, "invalid_field", "`expectedsequence`"),
    (r#","subject":"k","expectedsequence":1,"expectedsequence":1"#, "invalid_field", "twice"),
    (r#","tidegatefoo":"x""#, "invalid_field", "reserved"),
    (r#","ext":"x","ext":"x""#, "invalid_field", "`ext` is given twice"),
];

#[test]
fn wrong_members_are_named() {
    for (members, code, says) in BAD_MEMBERS {
        let error = with(members).expect_err(members);
        assert_eq!(error.code.name(), code, "{members}: {}", error.detail.message);
        assert!(error.detail.message.contains(says), "{members}: {}", error.detail.message);
    }
}

#[test]
fn wrong_events_are_named() {
    let long = "x".repeat(256);
    let cases = [
        (r#"{"id":"1","source":"/s","type":"a"}"#.to_owned(), "invalid_field", "specversion"),
        (
            r#"{"specversion":"0.3","id":"1","source":"/s","type":"a"}"#.to_owned(),
            "invalid_field",
            "specversion",
        ),
        (r#"{"specversion":"1.0","source":"/s","type":"a"}"#.to_owned(), "invalid_field", "id"),
        (
            r#"{"specversion":"1.0","id":null,"source":"/s","type":"a"}"#.to_owned(),
            "invalid_field",
            "id",
        ),
        (
            r#"{"specversion":"1.0","id":1,"source":"/s","type":"a"}"#.to_owned(),
            "invalid_field",
            "id",
        ),
        (r#"{"specversion":"1.0","id":"1","type":"a"}"#.to_owned(), "invalid_field", "source"),
        (r#"{"specversion":"1.0","id":"1","source":"/s"}"#.to_owned(), "invalid_field", "type"),
        (
            format!(r#"{{"specversion":"1.0","id":"{long}","source":"/s","type":"a"}}"#),
            "invalid_field",
            "id",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/tidegate/main/x","type":"a"}"#.to_owned(),
            "invalid_field",
            "source",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"tidegate.timer"}"#.to_owned(),
            "invalid_field",
            "type",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"a b","type":"a"}"#.to_owned(),
            "invalid_field",
            "source",
        ),
    ];
    for (json, code, field) in cases {
        let error = structured(&json).expect_err(&json);
        let found = (error.code.name(), error.detail.field.as_deref());
        assert_eq!(found, (code, Some(field)), "{json}");
    }
    let too_large = format!(r#","data":"{}""#, "x".repeat(1024 * 1024));
    let error = with(&too_large).expect_err("data over 1 MiB");
    assert_eq!(error.code.name(), "too_large");
    assert_eq!((error.detail.limit, error.detail.actual), (Some(1_048_576), Some(1_048_578)));
}

#[test]
fn bad_json_has_line_and_column() {
    for (json, line, column) in [
        ("{\n \"id\": }", 2, 8),
        ("", 1, 1),
        ("{\"id\":\"1\"} x", 1, 12),
        ("{\"id\":\"\u{1}\"}", 1, 7),
    ] {
        match read_line(json.as_bytes()) {
            Err(BadEvent::Json { line: l, column: c, .. }) => {
                assert_eq!((l, c), (line, column), "{json:?}");
            }
            other => panic!("{json:?}: {other:?}"),
        }
    }
    let invalid_utf8 = read_line(b"{\"id\":\"\xff\"}");
    assert!(matches!(invalid_utf8, Err(BadEvent::Json { .. })), "{invalid_utf8:?}");
}

#[test]
fn a_bad_event_of_a_batch_is_named_by_index() {
    let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"a"}"#;
    let batch_type = headers(&[("content-type", "application/cloudevents-batch+json")]);
    let batch = |body: String| read(&batch_type, &Bytes::from(body));
    assert_eq!(batch("[]".to_owned()).unwrap(), []);
    let bad = batch(format!("[{good},{{\"specversion\":\"1.0\"}}]")).unwrap_err();
    assert_eq!(bad.index, Some(1));
    for (wrong, index) in [("[EVENT,7]", Some(1)), ("[[]]", Some(0)), ("EVENT", None), ("7", None)]
    {
        let error = ApiError::from(batch(wrong.replace("EVENT", good)).unwrap_err());
        assert_eq!((error.code.name(), error.detail.index), ("invalid_field", index), "{wrong}");
        assert!(!error.detail.message.contains("JSON"), "{}", error.detail.message);
    }
    for wrong in ["[1]", "\"x\""] {
        let error = structured(wrong).expect_err(wrong);
        let found = (error.code.name(), &*error.detail.message);
        assert_eq!(found, ("invalid_field", "not a CloudEvent, which is an object"), "{wrong}");
    }
    for broken in [format!("[{good},"), format!("[{good}] x")] {
        let bad = batch(broken).unwrap_err();
        assert!(matches!(bad, BadInput { index: None, problem: BadEvent::Json { .. } }), "{bad:?}");
    }
    let many = format!("[{}]", vec![good; 10_001].join(","));
    let bad = batch(many).unwrap_err();
    assert_eq!(bad.problem, BadEvent::TooMany { limit: 10_000, actual: 10_001 });
}

#[test]
fn the_media_type_says_the_mode() {
    let good = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/s","type":"a"}"#);
    for content_type in
        ["application/cloudevents+json", "Application/CloudEvents+JSON;charset=\"utf-8\""]
    {
        assert!(read(&headers(&[("content-type", content_type)]), &good).is_ok());
    }
    for content_type in [
        "application/json",
        "text/plain",
        "application/cloudevents",
        "application/cloudevents+avro",
        "application/cloudevents+json; charset=utf-16",
    ] {
        let bad = read(&headers(&[("content-type", content_type)]), &good).unwrap_err();
        assert!(matches!(bad.problem, BadEvent::MediaType { .. }), "{content_type}");
    }
    let bad = read(&HeaderMap::new(), &good).unwrap_err().problem.to_string();
    assert!(bad.contains("there is no content type") && !bad.contains("none"), "{bad}");
    // Structured wins over `ce-` headers, as section 3 of the binding says.
    let both = [("content-type", "application/cloudevents+json"), ("ce-id", "9")];
    assert_eq!(&*read(&headers(&both), &good).unwrap()[0].event.id, "1");
}

#[test]
fn binary_mode_checks_as_structured_mode_does() {
    let required =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "a")];
    type Pairs = &'static [(&'static str, &'static str)];
    let cases: [(Pairs, &str, &str); 7] = [
        (&[("ce-id", "2")], "", "`id` is given twice"),
        (&[("ce-datacontenttype", "a/b")], "", "`datacontenttype`"),
        (&[("ce-data", "x")], "", "`data`"),
        (&[("ce-a-b", "x")], "", "`a-b`"),
        (&[("ce-ext", "%ff")], "", "`ext`"),
        (&[("content-type", "application/json")], "{", "line 1"),
        (&[("content-type", "a/b"), ("content-type", "a/c")], "", "`datacontenttype`"),
    ];
    for (more, body, says) in cases {
        let pairs = [&required[..], more].concat();
        let bad = read(&headers(&pairs), &Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
        assert!(bad.problem.to_string().contains(says), "{more:?}: {}", bad.problem);
    }
    let bad = read(&headers(&required[1..]), &Bytes::new()).unwrap_err();
    assert!(bad.problem.to_string().contains("`specversion` is missing"));
    let json = [&required[..], &[("content-type", "application/json")]].concat();
    let invalid_utf8 = read(&headers(&json), &Bytes::from_static(b"{\"a\":\"\xff\"}"));
    let problem = invalid_utf8.unwrap_err().problem;
    assert!(matches!(problem, BadEvent::Json { line: 1, .. }), "{problem:?}");
}
