//! Aggregates: commands become events, and events make the state.
//!
//! An [`Aggregate`] says which events a command leads to, or why it is refused
//! ([`decide`](Aggregate::decide)), and what an event changes ([`apply`](Aggregate::apply)).
//! [`aggregate!`](crate::aggregate!) makes a plugin of it.
//!
//! # Where the state comes from
//!
//! A command applies its events to the state *at once*, and emits them: one delivery, one commit,
//! both or neither. So the next command of the key sees what this one did, however quickly it
//! follows. (State that were only built from the emitted events, once they come back, would let a
//! second withdrawal be decided before the first is seen.)
//!
//! The plugin also takes its own events (`own = true` in the manifest). Every one carries its number
//! within the aggregate, the state carries the number of the last event it holds, and an event is
//! applied only if it is the next. While commands are decided, their events come back as ones that
//! the state holds already, and nothing happens. Where the state lacks them they rebuild it: the
//! events count, not what `decide` would say today. An event that is neither is rejected, because a
//! state with a hole in it would be wrong ever after.
//!
//! Only events that the host says a plugin emitted are taken (source `/tidegate/...`, which nobody can
//! publish); `subscribe.sources` of the manifest names the one plugin.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tagged::{self, TagError};
use crate::{
    Answer, Error, Event, Failure, Outcome, Request, Response, emit, json, keys, reject, state,
};

/// The attribute that numbers the events of an aggregate, from 1.
pub const VERSION_ATTRIBUTE: &str = "aggregateversion";

/// The name that the state is stored under: `{"version":3,"state":{..}}`.
pub const STATE_NAME: &str = "aggregate";

/// What begins the source of every event that a plugin emitted.
const EMITTED: &str = "/tidegate/";

/// State of a key that only changes by its own events. See the [module](self).
///
/// `Default` is the state before the first event.
pub trait Aggregate: Default + Serialize + DeserializeOwned {
    /// What it can be asked to do: an enum with a variant for each operation, named by
    /// `#[serde(rename_all = "kebab-case")]` or the like, whose fields are the body in JSON.
    type Command: DeserializeOwned;

    /// What can happen to it: an enum with a variant for each event type, named by
    /// `#[serde(rename = "account.opened")]`, whose fields are the data in JSON.
    type Event: Serialize + DeserializeOwned;

    /// The events that a command leads to, none where nothing is to change.
    ///
    /// # Errors
    /// [`reject`] with the reason, for whoever asks.
    fn decide(
        &self,
        command: Self::Command,
        request: &Request,
    ) -> Result<Vec<Self::Event>, Failure>;

    /// What an event changes. It has happened: there is no way to refuse it.
    fn apply(&mut self, event: &Self::Event);

    /// What a command is answered with, seen from the state after its events; unless said otherwise
    /// the number of the last event: `{"version":3}`.
    ///
    /// # Errors
    /// A failure refuses the command after all.
    fn answer(&self, version: u64) -> Answer {
        Ok(Response::json(&serde_json::json!({ "version": version }))?)
    }
}

/// The state of an aggregate and the number of its last event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<A> {
    /// Events applied so far; 0: nothing has happened yet.
    pub version: u64,
    /// The state after them.
    pub state: A,
}

/// The aggregate of the key of the input.
///
/// # Errors
/// [`Error::Decode`] where what is stored is not an `A`.
pub fn load<A: Aggregate>() -> Result<Versioned<A>, Error> {
    Ok(state::get(STATE_NAME)?.unwrap_or_default())
}

/// The aggregate of any key, in a query; none where nothing has happened to it.
///
/// # Errors
/// As [`load`].
pub fn of<A: Aggregate>(key: &str) -> Result<Option<Versioned<A>>, Error> {
    keys::get(key, STATE_NAME)
}

/// Runs a command: decides, applies, emits, answers. What [`aggregate!`](crate::aggregate!) exports.
///
/// # Errors
/// What [`Aggregate::decide`] fails with; a reject for an operation or a body that is not known, and
/// for a request without a key.
pub fn execute<A: Aggregate>(request: &Request) -> Answer {
    if request.key().is_none() {
        return Err(reject(format!("`{}` needs a key", request.operation())));
    }
    let command =
        tagged::read(request.operation(), request.bytes()).map_err(|error| match error {
            TagError::Unknown(known) => crate::unknown_operation(request.operation(), known),
            TagError::Content(why) => {
                Error::Decode { what: format!("body of `{}`", request.operation()), why }.into()
            }
        })?;
    let mut aggregate = load::<A>()?;
    let decided = aggregate.state.decide(command, request)?;
    for event in &decided {
        aggregate.state.apply(event);
        aggregate.version += 1;
        let (kind, data) = tagged::write(event)?;
        let draft = emit(kind).attribute(VERSION_ATTRIBUTE, aggregate.version.to_string());
        match data {
            Some(data) => draft.bytes(json::MEDIA_TYPE, data)?,
            None => draft.empty()?,
        };
    }
    if !decided.is_empty() {
        state::set(STATE_NAME, &aggregate)?;
    }
    aggregate.state.answer(aggregate.version)
}

/// Takes one of the aggregate's own events: nothing happens where the state holds it already. What
/// [`aggregate!`](crate::aggregate!) exports.
///
/// # Errors
/// A reject for an event that is not the aggregate's, not known, or not the next.
pub fn take<A: Aggregate>(event: &Event) -> Outcome {
    let version = crate::attribute(VERSION_ATTRIBUTE).and_then(|text| text.parse::<u64>().ok());
    let (Some(version), true) = (version, event.source().starts_with(EMITTED)) else {
        return Err(reject(format!(
            "`{}` of {} is not an event of the aggregate: only its commands lead to them",
            event.kind(),
            event.source()
        )));
    };
    let mut aggregate = load::<A>()?;
    if version <= aggregate.version {
        return Ok(());
    }
    if version != aggregate.version + 1 {
        return Err(reject(format!(
            "event {version} of the aggregate comes where its state is at {}",
            aggregate.version
        )));
    }
    let happened: A::Event =
        tagged::read(event.kind(), event.bytes()).map_err(|error| Error::Decode {
            what: format!("`{}` of the aggregate", event.kind()),
            why: error.to_string(),
        })?;
    aggregate.state.apply(&happened);
    aggregate.version = version;
    Ok(state::set(STATE_NAME, &aggregate)?)
}

/// Makes a plugin of an [`Aggregate`]: its commands, its own events, and questions as in
/// [`queries!`](crate::queries!).
///
/// Besides the exports it makes the functions `execute`, `handle` and, with questions, `read` for
/// tests.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidegate_sdk::aggregate::Aggregate;
/// use tidegate_sdk::{Answer, Failure, Request, Response, aggregate, reject};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Stock { left: u32 }
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum Command { Deliver { count: u32 }, Reserve { count: u32 } }
///
/// #[derive(Serialize, Deserialize)]
/// enum Happened {
///     #[serde(rename = "stock.delivered")]
///     Delivered { count: u32 },
///     #[serde(rename = "stock.reserved")]
///     Reserved { count: u32 },
/// }
///
/// impl Aggregate for Stock {
///     type Command = Command;
///     type Event = Happened;
///
///     fn decide(&self, command: Command, _: &Request) -> Result<Vec<Happened>, Failure> {
///         match command {
///             Command::Deliver { count } => Ok(vec![Happened::Delivered { count }]),
///             Command::Reserve { count } if count > self.left => Err(reject("sold out")),
///             Command::Reserve { count } => Ok(vec![Happened::Reserved { count }]),
///         }
///     }
///
///     fn apply(&mut self, event: &Happened) {
///         match event {
///             Happened::Delivered { count } => self.left += count,
///             Happened::Reserved { count } => self.left -= count,
///         }
///     }
/// }
///
/// aggregate! { Stock, "left" => left }
///
/// fn left(_: &Request) -> Answer {
///     Ok(Response::json(&aggregate::load::<Stock>()?.state.left)?)
/// }
/// # use tidegate_sdk::testing::{request, Host};
/// # use serde_json::json;
/// # let mut host = Host::new();
/// # let (_, effects) = host.execute(execute, request("deliver").key("lamp").json(&json!({ "count": 3 })));
/// # host.deliver(handle, &effects.expect_ok().emitted[0]).expect_ok();
/// # assert_eq!(host.read(read, request("left").key("lamp")).unwrap().body(), b"3");
/// # let (answer, _) = host.execute(execute, request("reserve").key("lamp").json(&json!({ "count": 4 })));
/// # assert_eq!(answer, Err(reject("sold out")));
/// ```
///
/// The manifest:
///
/// ```toml
/// [subscribe]
/// types = ["stock.delivered", "stock.reserved"]
/// sources = ["/tidegate/main/stock"]    # this plugin on its bus
/// own = true
/// ```
#[macro_export]
macro_rules! aggregate {
    ($aggregate:ty $(,)?) => {
        /// Runs a command.
        ///
        /// # Errors
        /// What the aggregate rejects it with.
        pub fn execute(request: &$crate::Request) -> $crate::Answer {
            $crate::aggregate::execute::<$aggregate>(request)
        }

        /// Takes an event of the aggregate.
        ///
        /// # Errors
        /// A reject for an event that is not its own.
        pub fn handle(event: &$crate::Event) -> $crate::Outcome {
            $crate::aggregate::take::<$aggregate>(event)
        }

        $crate::__export_handler!(handle);
        $crate::__export_command!(execute);
    };
    ($aggregate:ty, $($operation:literal => $responder:expr),+ $(,)?) => {
        $crate::aggregate!($aggregate);
        $crate::queries!($($operation => $responder),+);
    };
}

#[cfg(test)]
mod tests;
