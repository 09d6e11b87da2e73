use super::*;

/// Why a line is refused, from the number on.
fn refused(line: &str) -> String {
    let read = Line::read(line.as_bytes()).and_then(Line::member);
    read.map(|_| String::new()).unwrap_or_else(|why| why)
}

fn said(line: &str) -> Said {
    match Line::read(line.as_bytes()).and_then(Line::member) {
        Ok(Member::Outcome(said)) => said,
        Ok(_) => panic!("{line}: no outcome"),
        Err(why) => panic!("{line}: {why}"),
    }
}

#[test]
fn a_line_that_is_no_json_is_named_by_its_column() {
    assert_eq!(refused("{\"emit\":}"), ", column 9: expected value");
    assert_eq!(refused("hello"), ", column 1: expected value");
    assert!(refused("{\"outcome\":\"ok\"} x").starts_with(", column 18: trailing"));
    assert!(refused("[]").contains("column"));
}

#[test]
fn a_line_says_exactly_one_thing() {
    let one = ": expected exactly one of `emit`, `state`, `timer`, `call`, `log`, `response`, \
               `outcome`";
    assert_eq!(refused("{}"), one);
    assert_eq!(refused(r#"{"log":{"message":"a"},"outcome":"ok"}"#), one);
    assert_eq!(refused(r#"{"response":{},"emit":{"type":"a"}}"#), one);
}

#[test]
fn members_nobody_knows_and_members_twice_are_refused() {
    for line in [
        r#"{"emitt":{"type":"a"}}"#,
        r#"{"emit":{"type":"a","dta":1}}"#,
        r#"{"state":{"put":{}}}"#,
        r#"{"timer":{"set":"a","due":1}}"#,
        r#"{"call":{"name":"a","url":"http://a","body":""}}"#,
        r#"{"log":{"message":"a","lvl":"info"}}"#,
        r#"{"response":{"status":200}}"#,
        r#"{"outcome":"ok","outcome":"ok"}"#,
        r#"{"emit":{"type":"a","type":"b"}}"#,
        r#"{"emit":{"type":"a","attributes":{"n":"1","n":"2"}}}"#,
        r#"{"state":{"set":{"sum":1,"sum":2}}}"#,
        r#"{"call":{"name":"a","url":"http://a","headers":{"n":"1","n":"2"}}}"#,
        r#"{"response":{"attributes":{"n":"1","n":"2"}}}"#,
    ] {
        assert!(refused(line).starts_with(", column"), "{line}: {}", refused(line));
    }
}

#[test]
fn an_array_is_no_object() {
    for line in [
        r#"[{"type":"a"},null,null,null,null,null,null,null,null]"#,
        r#"{"emit":["a",null,null,null,null,null,null]}"#,
        r#"{"state":[{"sum":1},null,null]}"#,
        r#"{"timer":["a",1,null,null,null,null]}"#,
        r#"{"call":["a",null,"http://a",null,null,null,null]}"#,
        r#"{"log":[null,"a"]}"#,
        r#"{"response":[null,1,null,null]}"#,
    ] {
        assert!(refused(line).contains("expected an object"), "{line}: {}", refused(line));
    }
}

#[test]
fn values_of_another_kind_are_refused() {
    for line in [
        r#"{"emit":{}}"#,
        r#"{"emit":{"type":1}}"#,
        r#"{"emit":{"type":"a","attributes":{"n":1}}}"#,
        r#"{"state":{"delete":"a"}}"#,
        r#"{"state":{"set":{"a":1},"ttl_ms":-1}}"#,
        r#"{"timer":{"set":"a","due_ms":1.5}}"#,
        r#"{"call":{"name":"a"}}"#,
        r#"{"log":{"level":"fatal","message":"a"}}"#,
        r#"{"log":{"level":"info"}}"#,
        r#"{"outcome":"fine"}"#,
        r#"{"outcome":"retry","after_ms":-1}"#,
    ] {
        assert!(refused(line).starts_with(", column"), "{line}: {}", refused(line));
    }
}

#[test]
fn reason_and_delay_stand_beside_an_outcome() {
    let alone = ": `reason` and `after_ms` stand beside `outcome`";
    assert_eq!(refused(r#"{"log":{"message":"a"},"reason":"b"}"#), alone);
    assert_eq!(refused(r#"{"after_ms":5}"#), alone);
    assert_eq!(said(r#"{"outcome":"ok","reason":"","after_ms":0}"#), Said::Ok);
    let retry = |after_ms| Said::Retry { reason: "r".to_owned(), after_ms };
    assert_eq!(said(r#"{"outcome":"retry","reason":"r","after_ms":5}"#), retry(Some(5)));
    assert_eq!(said(r#"{"outcome":"retry","reason":"r","after_ms":0}"#), retry(None));
    assert_eq!(said(r#"{"outcome":"retry","reason":"r"}"#), retry(None));
    assert_eq!(said(r#"{"outcome":"reject"}"#), Said::Reject { reason: String::new() });
}

#[test]
fn lines_are_counted_with_the_blank_ones() {
    let numbers: Vec<usize> = lines(b"\n  \r\n{}\n\n{}").map(|(number, _)| number).collect();
    assert_eq!(numbers, [3, 5]);
}
