//! Projections: read models of events.
//!
//! A [`Projection`] is what is known of one key, made from its events. Questions are answered from the
//! one of a key, or across keys. [`projection!`](crate::projection!) makes a plugin of it.
//!
//! It holds no truth of its own: `tidegate plugins rewind` makes it again from the log.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tagged::{self, TagError};
use crate::{Error, Event, Outcome, keys, reject, state};

/// The name that the read model of a key is stored under, in JSON.
pub const STATE_NAME: &str = "projection";

/// The read model of a key. See the [module](self).
///
/// `Default` is the model before the first event.
pub trait Projection: Default + Serialize + DeserializeOwned {
    /// What it is made from: an enum with a variant for each event type, named by
    /// `#[serde(rename = "order.created")]`, whose fields are read from the data in JSON. Events of
    /// other types are left alone.
    type Event: DeserializeOwned;

    /// What an event changes; `about` has its time, id and source.
    ///
    /// # Errors
    /// [`reject`] for what can never be part of the model.
    fn apply(&mut self, event: Self::Event, about: &Event) -> Outcome;
}

/// The read model of the key of the input; `Default` where nothing has happened yet.
///
/// # Errors
/// [`Error::Decode`] where what is stored is not a `P`.
pub fn load<P: Projection>() -> Result<P, Error> {
    Ok(state::get(STATE_NAME)?.unwrap_or_default())
}

/// The read model of any key, in a query; none where nothing has happened to it.
///
/// # Errors
/// As [`load`].
pub fn of<P: Projection>(key: &str) -> Result<Option<P>, Error> {
    keys::get(key, STATE_NAME)
}

/// The read models of all keys with this prefix, ascending by key, in a query. They are read one by
/// one, so that a total over many keys needs the memory of one.
pub fn all<P: Projection>(prefix: &str) -> impl Iterator<Item = Result<(String, P), Error>> {
    keys::list(prefix).filter_map(|key| match of(&key) {
        Ok(Some(model)) => Some(Ok((key, model))),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    })
}

/// Takes an event into the read model of its key. What [`projection!`](crate::projection!) exports.
///
/// # Errors
/// What [`Projection::apply`] fails with; a reject for data that is not what the model takes, and for
/// an event without a key.
pub fn take<P: Projection>(event: &Event) -> Outcome {
    let happened = match tagged::read::<P::Event>(event.kind(), event.bytes()) {
        Ok(happened) => happened,
        Err(TagError::Unknown(_)) => return Ok(()),
        Err(TagError::Content(why)) => {
            return Err(Error::Decode { what: format!("data of `{}`", event.kind()), why }.into());
        }
    };
    if event.key().is_none() {
        return Err(reject(format!(
            "`{}` needs a key: the model is one of each key",
            event.kind()
        )));
    }
    let mut model = load::<P>()?;
    model.apply(happened, event)?;
    Ok(state::set(STATE_NAME, &model)?)
}

/// Makes a plugin of a [`Projection`]: its events, and questions as in
/// [`queries!`](crate::queries!).
///
/// Besides the exports it makes the functions `handle` and `read` for tests.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidegate_sdk::projection::Projection;
/// use tidegate_sdk::{Answer, Event, Outcome, Request, Response, projection};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Sales { orders: u64, amount: u64 }
///
/// #[derive(Deserialize)]
/// enum Happened {
///     #[serde(rename = "order.created")]
///     Created { amount: u64 },
/// }
///
/// impl Projection for Sales {
///     type Event = Happened;
///
///     fn apply(&mut self, event: Happened, _: &Event) -> Outcome {
///         let Happened::Created { amount } = event;
///         self.orders += 1;
///         self.amount += amount;
///         Ok(())
///     }
/// }
///
/// projection! { Sales, "total" => total }
///
/// fn total(_: &Request) -> Answer {
///     let mut sum = 0;
///     for sales in projection::all::<Sales>("") {
///         sum += sales?.1.amount;
///     }
///     Ok(Response::json(&sum)?)
/// }
/// # use tidegate_sdk::testing::{event, request, Host};
/// # use serde_json::json;
/// # let mut host = Host::new();
/// # host.deliver(handle, event("order.created").key("a").json(&json!({ "amount": 40 }))).expect_ok();
/// # host.deliver(handle, event("order.created").key("b").json(&json!({ "amount": 2 }))).expect_ok();
/// # host.deliver(handle, event("order.seen").key("b")).expect_ok();
/// # assert_eq!(host.read(read, request("total")).unwrap().body(), b"42");
/// ```
#[macro_export]
macro_rules! projection {
    ($projection:ty, $($operation:literal => $responder:expr),+ $(,)?) => {
        /// Takes an event into the read model of its key.
        ///
        /// # Errors
        /// A reject for what is not part of the model.
        pub fn handle(event: &$crate::Event) -> $crate::Outcome {
            $crate::projection::take::<$projection>(event)
        }

        $crate::__export_handler!(handle);
        $crate::queries!($($operation => $responder),+);
    };
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::{Projection, all, of, take};
    use crate::testing::{Host, Verdict, event, request};
    use crate::{Event, Outcome, Response, reject};

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Sum(u64);

    #[derive(Deserialize)]
    enum Happened {
        #[serde(rename = "a.added")]
        Added { n: u64 },
    }

    impl Projection for Sum {
        type Event = Happened;
        fn apply(&mut self, Happened::Added { n }: Happened, _: &Event) -> Outcome {
            self.0 = self.0.checked_add(n).ok_or_else(|| reject("too much"))?;
            Ok(())
        }
    }

    #[test]
    fn models_are_one_of_each_key_and_listed_together() {
        let mut host = Host::new().with_state("c", "other", &1);
        for (key, n) in [("a", 1), ("b", 2), ("a", 3)] {
            host.deliver(take::<Sum>, event("a.added").key(key).json(&json!({ "n": n })))
                .expect_ok();
        }
        host.deliver(take::<Sum>, event("a.unknown").key("a").json(&7)).expect_ok();
        let read = |_: &_| {
            let found: Result<Vec<_>, _> = all::<Sum>("").collect();
            assert_eq!(found?, [("a".to_owned(), Sum(4)), ("b".to_owned(), Sum(2))]);
            assert_eq!((of::<Sum>("b")?, of::<Sum>("c")?), (Some(Sum(2)), None));
            Ok(Response::empty())
        };
        host.read(read, request("any")).unwrap();
    }

    #[test]
    fn events_that_fit_nowhere_are_rejected_with_the_reason() {
        let mut host = Host::new();
        let mut why = |input| match host.deliver(take::<Sum>, input).outcome {
            Verdict::Reject { reason } => reason,
            other => panic!("{other:?}"),
        };
        let added = || event("a.added").json(&json!({ "n": u64::MAX }));
        assert_eq!(why(added()), "`a.added` needs a key: the model is one of each key");
        let decode = "data of `a.added` is not what the handler takes: \
                      missing field `n` at line 1 column 2";
        assert_eq!(why(event("a.added").key("k")), decode);
        host.deliver(take::<Sum>, added().key("k")).expect_ok();
        let reason = "too much".to_owned();
        assert_eq!(host.deliver(take::<Sum>, added().key("k")).outcome, Verdict::Reject { reason });
    }
}
