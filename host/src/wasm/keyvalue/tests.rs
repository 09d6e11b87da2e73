use std::sync::Arc;

use super::*;
use crate::effects::Outcome;
use crate::wasm::context::Access;
use crate::wasm::delivery::GuestLimits;
use crate::wasm::fixtures::context;
use crate::wasm::limits::{Breach, HOST_CALLS_MAX};

fn data(limits: GuestLimits, key: Option<&str>, access: Access) -> StoreData {
    StoreData::within(context(key, limits, Arc::new(()), access))
}

fn keyed() -> StoreData {
    data(GuestLimits::default(), Some("k"), Access::Write)
}

fn open(data: &mut StoreData, name: &str) -> Resource<Bucket> {
    data.open_bucket(name).unwrap().ok().unwrap()
}

fn why<T>(answer: Answer<T>) -> String {
    match answer.unwrap() {
        Ok(_) => "done".to_owned(),
        Err(Refused::NoSuchStore) => "no such store".to_owned(),
        Err(Refused::AccessDenied) => "access denied".to_owned(),
        Err(Refused::Other(why)) => why,
    }
}

#[test]
fn buckets_stand_apart_in_the_state_of_the_key() {
    let mut data = keyed();
    let (one, other) = (open(&mut data, ""), open(&mut data, "a"));
    data.put_in(&one, "a/x", Some(b"1")).unwrap().ok().unwrap();
    data.put_in(&other, "x", Some(b"2")).unwrap().ok().unwrap();
    assert_eq!(data.value(&other, "a/x").unwrap(), None);
    let effects = data.finish(Box::default()).invocation.effects;
    let names: Vec<&str> = effects.state.iter().map(|write| &*write.name).collect();
    assert_eq!(names, ["/a/x", "a/x"]);
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let mut data = keyed();
    assert_eq!(why(data.open_bucket("a/b")), "no such store");
    assert_eq!(why(data.open_bucket(&"x".repeat(65))), "no such store");
    let bucket = open(&mut data, "b");
    assert!(why(data.put_in(&bucket, &"x".repeat(254), Some(b""))).contains("1 to 255 bytes"));
    assert!(why(data.put_in(&bucket, "a\nb", Some(b""))).contains("control character"));
    assert!(why(data.numbered_page(&bucket, Some(1))).contains("no cursor"));
    assert!(why(data.values(&bucket, vec![String::new(); 10_001])).contains("at most 10000"));
    data.put_in(&bucket, "n", Some(b"255")).unwrap().ok().unwrap();
    assert!(why(data.add(&bucket, "n", |n: u8| n.checked_add(1))).contains("too large"));
    data.put_in(&bucket, "n", Some(b"0x1")).unwrap().ok().unwrap();
    assert!(why(data.add(&bucket, "n", |n: u64| n.checked_add(1))).contains("no number"));

    let mut unkeyed = self::data(GuestLimits::default(), None, Access::Write);
    assert!(why(unkeyed.open_bucket("b")).contains("no key"));
    let mut read = self::data(GuestLimits::default(), Some("k"), Access::Read);
    let bucket = open(&mut read, "b");
    assert_eq!(why(read.put_in(&bucket, "x", Some(b""))), "access denied");
}

#[test]
fn what_is_written_counts_as_output() {
    let limits = GuestLimits { output_bytes_max: 10, ..GuestLimits::default() };
    let mut data = data(limits, Some("k"), Access::Write);
    let bucket = open(&mut data, "b");
    assert!(why(data.put_in(&bucket, "x", Some(&[0; 10]))).contains("`limits.output`"));
    let exceeded = data.finish(Box::default()).exceeded.unwrap();
    assert_eq!(exceeded.outcome(), Outcome::Output { budget: "limits.output".to_owned() });
}

#[test]
fn what_the_host_holds_is_the_guests_memory() {
    let limits = GuestLimits { memory_bytes: 1000, ..GuestLimits::default() };
    let mut data = data(limits, Some("k"), Access::Write);
    let before = data.memory_bytes();
    let buckets: Vec<_> = (0..7).map(|_| open(&mut data, "b")).collect();
    let breach = data.open_bucket("b").err().unwrap();
    assert_eq!(breach.downcast_ref::<Breach>(), Some(&Breach::Memory));
    for bucket in buckets {
        data.unshelve(bucket).unwrap();
    }
    // That which did not fit goes with the instance.
    assert!(data.memory_bytes() < before + 200);
}

#[test]
fn every_key_of_a_batch_is_a_call_into_the_host() {
    let mut data = keyed();
    let bucket = open(&mut data, "b");
    for _ in 0..HOST_CALLS_MAX - 5 {
        data.called().unwrap();
    }
    let breach = data.values(&bucket, vec![String::new(); 10]).err().unwrap();
    assert_eq!(breach.downcast_ref(), Some(&Breach::Output { budget: "host calls" }));
}

#[test]
fn a_swap_is_of_what_was_seen() {
    let mut data = keyed();
    let bucket = open(&mut data, "b");
    let seen = |data: &mut StoreData| {
        let seen = data.session().unwrap().state("b/x");
        data.shelve(Cas { name: "b/x".to_owned(), seen }).unwrap()
    };
    let cas = seen(&mut data);
    data.put_in(&bucket, "x", Some(b"1")).unwrap().ok().unwrap();
    let newer = data.swap_value(cas, b"2").unwrap().ok().unwrap().unwrap_err();
    assert_eq!(data.value(&bucket, "x").unwrap().as_deref(), Some(&b"1"[..]));
    data.swap_value(newer, b"2").unwrap().ok().unwrap().unwrap();
    assert_eq!(data.value(&bucket, "x").unwrap().as_deref(), Some(&b"2"[..]));
}
