use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn check(a: &str, b: &str, same: bool) {
    assert_eq!(is_same(a.as_bytes(), b.as_bytes()), same, "{a} and {b}");
    assert_eq!(is_same(b.as_bytes(), a.as_bytes()), same, "{b} and {a}");
}

#[test]
fn numbers_are_compared_as_decimals_of_any_length() {
    for (a, b) in [
        ("1", "1.0"),
        ("1", "1e0"),
        ("100", "1e2"),
        ("100", "1E+2"),
        ("0.001", "1e-3"),
        ("-12.50", "-1.25e1"),
        ("0", "-0.0e99999999999999999999"),
        ("100000000000000000001", "100000000000000000001.000"),
        ("100000000000000000010", "1000000000000000000.1e2"),
    ] {
        check(a, b, true);
    }
    for (a, b) in [
        ("100000000000000000001", "100000000000000000002"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("1e400", "1e401"),
        ("1", "-1"),
        ("1", "10"),
        ("0.1", "0.01"),
        ("1e99999999999999999999", "1e99999999999999999998"),
        ("1", "true"),
        ("1", "\"1\""),
        ("null", "false"),
    ] {
        check(a, b, false);
    }
}

#[test]
fn objects_are_compared_without_order_and_arrays_with_it() {
    check(r#"{"a":1,"b":[2,{}]}"#, "{ \"b\": [2,\r\n{ }],\t\"a\": 1 }", true);
    check(r#"{"a":1}"#, r#"{"a":1,"b":1}"#, false);
    check(r#"{"a":1}"#, r#"{"b":1}"#, false);
    check("[1,2]", "[2,1]", false);
    check("[1]", "[1,1]", false);
    check("[[],1]", "[[1]]", false);
    check("[]", "{}", false);
}

#[test]
fn a_member_given_twice_has_no_value() {
    check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#, false);
    check(r#"{"a":1,"a":2}"#, r#"{ "a":1,"a":2}"#, false);
    check(r#"{"a":1,"\u0061":1}"#, r#"{"a":1, "a":1}"#, false);
    check(r#"[{"b":0,"a":[{"a":1}]}]"#, r#"[{"a":[{"a":1}],"b":0}]"#, true);
}

#[test]
fn strings_are_compared_by_what_they_stand_for() {
    check(r#"{"\u0061\/":"\u00fc\"\\"}"#, "{\"a/\":\"ü\\u0022\\u005c\"}", true);
    check(r#""\ud83d\ude00""#, "\"😀\"", true);
    check(r#""a\\""#, r#""a\\\\""#, false);
    check(r#"["\ud800"]"#, r#"[ "\ud800"]"#, false);
}

#[test]
fn what_is_no_json_is_the_same_as_nothing() {
    check("{broken", "{ broken", false);
    check("", " ", false);
    check("1", "1 1", false);
    assert!(!is_same(b"\"\xff\"", b" \"\xff\""));
}

#[test]
fn depth_and_width_are_no_matter() {
    let nested = |inner: &str, space: &str| {
        let depth = 100_000;
        let open = format!("{{\"b\":{space}[");
        format!("{}{inner}{}", open.repeat(depth), "],\"a\":0}".repeat(depth))
    };
    check(&nested("1", ""), &nested("1.0", " "), true);
    check(&nested("1", ""), &nested("2", " "), false);
    let wide = |names: &mut dyn Iterator<Item = u32>| {
        let members: Vec<_> = names.map(|name| format!("\"{name}\":{name}")).collect();
        format!("{{{}}}", members.join(","))
    };
    check(&wide(&mut (0..100_000)), &wide(&mut (0..100_000).rev()), true);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u8..3).prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[ab\\\\\"é]{0,2}", inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// The same in other words: members the other way round, spaces, escapes, numbers in tens.
fn reworded(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(" ,\n");
    match value {
        Value::Object(members) => {
            let word = |(name, value): (&String, &Value)| {
                format!("{} : {}", escaped(name), reworded(value))
            };
            format!("{{ {} }}", list(members.iter().rev().map(word).collect()))
        }
        Value::Array(values) => format!("[ {} ]", list(values.iter().map(reworded).collect())),
        Value::String(text) => escaped(text),
        Value::Number(number) if number.as_i64() == Some(0) => "-0.00e7".to_owned(),
        Value::Number(number) => format!("{number}000.00e-3"),
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{units}\"")
}

proptest! {
    #[test]
    fn a_value_is_the_same_in_other_words(value in value()) {
        prop_assert!(is_same(value.to_string().as_bytes(), reworded(&value).as_bytes()));
    }

    #[test]
    fn small_values_are_the_same_as_serde_json_says(a in value(), b in value()) {
        prop_assert_eq!(is_same(a.to_string().as_bytes(), reworded(&b).as_bytes()), a == b);
    }

    #[test]
    fn a_number_is_its_digits_and_tens(digits in "[1-9][0-9]{0,60}", tens in 0_usize..60) {
        let whole = format!("{digits}{}", "0".repeat(tens));
        let same = |other: String| is_same(whole.as_bytes(), other.as_bytes());
        let (short, longer) = (format!("{digits}e{tens}"), format!("{digits}1e{tens}"));
        let smaller = format!("{digits}e-{}", tens + 1);
        prop_assert!(same(short));
        prop_assert!(!same(longer));
        prop_assert!(!same(smaller));
    }

    #[test]
    fn nothing_breaks_it(a in ".{0,40}", b in "[\\[\\]{}:,\"\\\\u0-9e.\\- ]{0,40}") {
        is_same(a.as_bytes(), b.as_bytes());
        is_same(b.as_bytes(), b.as_bytes());
    }
}
