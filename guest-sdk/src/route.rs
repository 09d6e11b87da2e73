//! From events and requests to functions: the macros that make a plugin.

use serde::de::DeserializeOwned;

use crate::{Answer, Event, Outcome, Request};

/// A function that takes events: `fn(&Event) -> Outcome`, or `fn(&Event, T) -> Outcome` with the
/// data already read as JSON (an event whose data is not a `T` is rejected).
///
/// `Args` only tells the two forms apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is `fn(&Event) -> Outcome` or `fn(&Event, T) -> Outcome` where `T: serde::Deserialize` without borrowing"
)]
pub trait Handler<Args> {
    /// Hands it one event.
    ///
    /// # Errors
    /// What the function returns, or a reject where the data is not what it takes.
    fn call(&self, event: &Event) -> Outcome;
}

impl<F: Fn(&Event) -> Outcome> Handler<(Event,)> for F {
    fn call(&self, event: &Event) -> Outcome {
        self(event)
    }
}

impl<F: Fn(&Event, T) -> Outcome, T: DeserializeOwned> Handler<(Event, T)> for F {
    fn call(&self, event: &Event) -> Outcome {
        self(event, event.data()?)
    }
}

/// A function that answers requests: `fn(&Request) -> Answer`, or `fn(&Request, T) -> Answer` with
/// the body already read as JSON.
///
/// `Args` only tells the two forms apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer requests",
    note = "it must be `fn(&Request) -> Answer` or `fn(&Request, T) -> Answer` where `T: serde::Deserialize` without borrowing"
)]
pub trait Responder<Args> {
    /// Hands it one request.
    ///
    /// # Errors
    /// What the function returns, or a reject where the body is not what it takes.
    fn call(&self, request: &Request) -> Answer;
}

impl<F: Fn(&Request) -> Answer> Responder<(Request,)> for F {
    fn call(&self, request: &Request) -> Answer {
        self(request)
    }
}

impl<F: Fn(&Request, T) -> Answer, T: DeserializeOwned> Responder<(Request, T)> for F {
    fn call(&self, request: &Request) -> Answer {
        self(request, request.data()?)
    }
}

/// Whether an event type fits a pattern, by the rules of `subscribe.types`: `*` stands for one
/// segment between dots, `**` for any number of them, also none.
///
/// ```
/// use tidegate_sdk::matches;
/// assert!(matches("payment.*", "payment.failed"));
/// assert!(!matches("payment.*", "payment.card.failed"));
/// assert!(matches("payment.**", "payment.card.failed"));
/// assert!(matches("**.failed", "failed"));
/// ```
#[must_use]
pub fn matches(pattern: &str, kind: &str) -> bool {
    let (first, rest) = split(pattern);
    if first == "**" {
        let Some(rest) = rest else { return true };
        // Zero segments, or one at a time.
        let mut kind = Some(kind);
        while let Some(tail) = kind {
            if matches(rest, tail) {
                return true;
            }
            kind = split(tail).1;
        }
        return false;
    }
    let (segment, tail) = split(kind);
    if first != "*" && first != segment {
        return false;
    }
    match (rest, tail) {
        (None, None) => true,
        (Some(rest), Some(tail)) => matches(rest, tail),
        (Some(rest), None) => rest.split('.').all(|segment| segment == "**"),
        (None, Some(_)) => false,
    }
}

fn split(dotted: &str) -> (&str, Option<&str>) {
    match dotted.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (dotted, None),
    }
}

/// Makes the plugin take events: the function of the first pattern that fits an event's type gets
/// it. Events that fit none are taken and left alone; the subscription in the manifest decides
/// which come at all.
///
/// Besides the export it makes a function `handle(&Event) -> Outcome` for tests.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidegate_sdk::{Event, Outcome, emit, handlers, state};
///
/// #[derive(Deserialize)]
/// struct Order { amount: u64 }
///
/// #[derive(Serialize)]
/// struct Totalled { sum: u64 }
///
/// handlers! {
///     "order.created" => on_created,
///     "payment.*" => on_payment,
/// }
///
/// fn on_created(_: &Event, order: Order) -> Outcome {
///     let sum = state::get("sum")?.unwrap_or(0) + order.amount;
///     state::set("sum", &sum)?;
///     emit("order.totalled").json(&Totalled { sum })?;
///     Ok(())
/// }
///
/// fn on_payment(event: &Event) -> Outcome {
///     state::set("last-payment", event.kind())?;
///     Ok(())
/// }
/// # use tidegate_sdk::testing::{event, Host};
/// # let mut host = Host::new();
/// # host.deliver(handle, event("order.created").key("o-1").json(&serde_json::json!({ "amount": 40 }))).expect_ok();
/// # host.deliver(handle, event("payment.taken").key("o-1")).expect_ok();
/// # assert_eq!(host.state::<u64>("o-1", "sum"), Some(40));
/// # assert_eq!(host.state::<String>("o-1", "last-payment").as_deref(), Some("payment.taken"));
/// ```
#[macro_export]
macro_rules! handlers {
    ($($pattern:literal => $handler:expr),+ $(,)?) => {
        /// Hands an event to the function of the first pattern that fits its type.
        ///
        /// # Errors
        /// What that function returns.
        pub fn handle(event: &$crate::Event) -> $crate::Outcome {
            $(
                if $crate::matches($pattern, event.kind()) {
                    return $crate::Handler::call(&$handler, event);
                }
            )+
            ::std::result::Result::Ok(())
        }

        $crate::__export_handler!(handle);
    };
}

/// Makes the plugin take commands: the function of an operation's name answers it, once what it
/// did is durable. An unknown operation is rejected.
///
/// Besides the export it makes a function `execute(&Request) -> Answer` for tests.
///
/// ```
/// use tidegate_sdk::{Answer, Request, Response, commands, reject, state};
///
/// commands! { "reserve" => reserve }
///
/// fn reserve(_: &Request, wanted: u32) -> Answer {
///     let left: u32 = state::get("stock")?.unwrap_or(10);
///     let left = left.checked_sub(wanted).ok_or_else(|| reject("sold out"))?;
///     state::set("stock", &left)?;
///     Ok(Response::json(&left)?)
/// }
/// # use tidegate_sdk::testing::{request, Host};
/// # let (answer, _) = Host::new().execute(execute, request("reserve").key("sku-1").json(&4));
/// # assert_eq!(answer.unwrap().body(), b"6");
/// ```
#[macro_export]
macro_rules! commands {
    ($($operation:literal => $responder:expr),+ $(,)?) => {
        /// Hands a command to the function of its operation.
        ///
        /// # Errors
        /// What that function returns; a reject for an unknown operation.
        pub fn execute(request: &$crate::Request) -> $crate::Answer {
            match request.operation() {
                $($operation => $crate::Responder::call(&$responder, request),)+
                other => ::std::result::Result::Err($crate::unknown_operation(other, &[$($operation),+])),
            }
        }

        $crate::__export_command!(execute);
    };
}

/// Makes the plugin answer questions: the function of an operation's name reads state and answers.
/// Effects are refused. An unknown operation is rejected.
///
/// Besides the export it makes a function `read(&Request) -> Answer` for tests.
///
/// ```
/// use tidegate_sdk::{Answer, Request, Response, keys, queries};
///
/// queries! { "total" => total }
///
/// fn total(_: &Request) -> Answer {
///     let mut sum = 0;
///     for key in keys::list("order-") {
///         sum += keys::get::<u64>(&key, "amount")?.unwrap_or(0);
///     }
///     Ok(Response::json(&sum)?)
/// }
/// # use tidegate_sdk::testing::{request, Host};
/// # let mut host = Host::new().with_state("order-1", "amount", &40).with_state("order-2", "amount", &2);
/// # assert_eq!(host.read(read, request("total")).unwrap().body(), b"42");
/// ```
#[macro_export]
macro_rules! queries {
    ($($operation:literal => $responder:expr),+ $(,)?) => {
        /// Hands a question to the function of its operation.
        ///
        /// # Errors
        /// What that function returns; a reject for an unknown operation.
        pub fn read(request: &$crate::Request) -> $crate::Answer {
            match request.operation() {
                $($operation => $crate::Responder::call(&$responder, request),)+
                other => ::std::result::Result::Err($crate::unknown_operation(other, &[$($operation),+])),
            }
        }

        $crate::__export_query!(read);
    };
}

/// Makes the plugin lift old events to the present shape, by a function
/// `fn(&Event, version: u32) -> Result<Lifted, Failure>` that must be pure.
///
/// ```
/// use tidegate_sdk::{Event, Failure, Lifted, reject, upcaster};
///
/// upcaster!(lift);
///
/// fn lift(event: &Event, version: u32) -> Result<Lifted, Failure> {
///     match version {
///         1 => Ok(Lifted::json(2, &serde_json::json!({ "amount": event.data::<u64>()? }))?),
///         other => Err(reject(format!("version {other} is not known"))),
///     }
/// }
/// # use tidegate_sdk::testing::{event, Host};
/// # let lifted = Host::new().upcast(lift, event("order.created").json(&40), 1).unwrap();
/// # assert_eq!(lifted.data(), br#"{"amount":40}"#);
/// ```
#[macro_export]
macro_rules! upcaster {
    ($lift:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;
            impl $crate::__private::UpcasterGuest for Plugin {
                fn upcast(
                    event: $crate::__private::types::Event,
                    version: u32,
                ) -> ::std::result::Result<$crate::__private::Lifted, ::std::string::String>
                {
                    $crate::__private::upcast(event, version, $lift)
                }
            }
            $crate::__private::upgrader::export_upcaster!(
                Plugin with_types_in $crate::__private::upgrader
            );
        };
    };
}

/// Exports a function as `handler.handle`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_handler {
    ($handle:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;
            impl $crate::__private::HandlerGuest for Plugin {
                fn handle(
                    event: $crate::__private::types::Event,
                ) -> ::std::result::Result<(), $crate::__private::types::Failure> {
                    $crate::__private::handle(event, $handle)
                }
            }
            $crate::__private::reactor::export_handler!(
                Plugin with_types_in $crate::__private::reactor
            );
        };
    };
}

/// Exports a function as `command.execute`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_command {
    ($execute:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;
            impl $crate::__private::CommandGuest for Plugin {
                fn execute(
                    request: $crate::__private::types::Request,
                ) -> ::std::result::Result<
                    $crate::__private::types::Response,
                    $crate::__private::types::Failure,
                > {
                    $crate::__private::answer(request, $execute)
                }
            }
            $crate::__private::commander::export_command!(
                Plugin with_types_in $crate::__private::commander
            );
        };
    };
}

/// Exports a function as `query.read`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_query {
    ($read:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;
            impl $crate::__private::QueryGuest for Plugin {
                fn read(
                    request: $crate::__private::types::Request,
                ) -> ::std::result::Result<
                    $crate::__private::types::Response,
                    $crate::__private::types::Failure,
                > {
                    $crate::__private::answer(request, $read)
                }
            }
            $crate::__private::reader::export_query!(
                Plugin with_types_in $crate::__private::reader
            );
        };
    };
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_follow_the_rules_of_subscriptions() {
        for (pattern, kind, fits) in [
            ("order.created", "order.created", true),
            ("order.created", "order.created.late", false),
            ("order.created", "Order.created", false),
            ("*", "order", true),
            ("*", "order.created", false),
            ("*.created", "order.created", true),
            ("order.*.late", "order.created.late", true),
            ("order.*.late", "order.late", false),
            ("**", "a", true),
            ("**", "a.b.c", true),
            ("order.**", "order", true),
            ("order.**", "order.a.b", true),
            ("order.**", "orders.a", false),
            ("**.late", "late", true),
            ("**.late", "a.b.late", true),
            ("**.late", "a.late.b", false),
            ("a.**.z", "a.z", true),
            ("a.**.z", "a.b.c.z", true),
            ("a.**.**", "a", true),
            ("a.*.**", "a", false),
        ] {
            assert_eq!(matches(pattern, kind), fits, "{pattern} on {kind}");
        }
    }
}
