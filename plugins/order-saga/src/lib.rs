//! An order goes through stock and payment; what cannot be paid is undone:
//!
//! ```text
//! order.created -> inventory.reserved -> payment.processed
//!                                    \-> payment.failed -> inventory.released -> order.cancelled
//! ```
//!
//! An order by invoice is charged by nobody: `inventory.reserved -> payment.requested`, and then either
//! somebody publishes `payment.received`, or the deadline passes and the order is undone in the same way.
//!
//! Teaches: a choreography. No function calls the next one. Each step takes one event, checks in the
//! state that the order is where it should be, and emits one event, which is the input of the next
//! step (`own = true` in the manifest). After a crash the saga stands exactly between two events;
//! `tidegate events tree` shows every order as one tree of causes and consequences. And a deadline: a
//! timer that is set with a step and cancelled with another fires as an event of the order, however
//! often the host was restarted in between.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::{Event, Failure, Outcome, config_as, emit, handlers, reject, state, timers};

const CARD_LIMIT_DEFAULT: u64 = 1000;
const INVOICE_SECONDS_DEFAULT: u64 = 900;
/// The timer that ends the wait for a payment.
const DEADLINE: &str = "payment";

/// What the customer wants; it travels in the first events of the saga.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
    amount: u64,
    #[serde(default, skip_serializing_if = "Pay::is_card")]
    pay: Pay,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pay {
    #[default]
    Card,
    Invoice,
}

impl Pay {
    fn is_card(&self) -> bool {
        *self == Self::Card
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    why: String,
}

/// Where an order is. Stored under `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Reserved,
    Invoiced,
    Paid,
    Unpaid,
    Released,
    Cancelled,
}

handlers! {
    "order.created" => reserve,
    "inventory.reserved" => charge,
    "payment.received" => receive,
    "tidegate.timer" => expire,
    "payment.processed" => finish,
    "payment.failed" => release,
    "inventory.released" => cancel,
}

fn reserve(event: &Event, order: Order) -> Outcome {
    if event.key().is_none() {
        return Err(reject("an order needs a key: publish it with `--key`"));
    }
    if order.quantity == 0 {
        return Err(reject(format!("an order of no `{}` at all", order.sku)));
    }
    step(None, Status::Reserved)?;
    state::set("order", &order)?;
    emit("inventory.reserved").json(&order)?;
    Ok(())
}

fn charge(_: &Event, order: Order) -> Outcome {
    if order.pay == Pay::Invoice {
        step(Some(Status::Reserved), Status::Invoiced)?;
        let seconds = config_as("invoice-seconds")?.unwrap_or(INVOICE_SECONDS_DEFAULT);
        timers::set_after(DEADLINE, Duration::from_secs(seconds), b"")?;
        emit("payment.requested").json(&order)?;
        return Ok(());
    }
    let limit = config_as("card-limit")?.unwrap_or(CARD_LIMIT_DEFAULT);
    if order.amount <= limit {
        step(Some(Status::Reserved), Status::Paid)?;
        emit("payment.processed").json(&order)?;
    } else {
        step(Some(Status::Reserved), Status::Unpaid)?;
        let why = format!("{} is over the limit of {limit}", order.amount);
        emit("payment.failed").json(&Refusal { why })?;
    }
    Ok(())
}

/// The customer has paid: the deadline means nothing any more.
fn receive(_: &Event) -> Outcome {
    step(Some(Status::Invoiced), Status::Paid)?;
    timers::cancel(DEADLINE)?;
    let order: Order = state::get("order")?.ok_or_else(|| reject("nothing is reserved"))?;
    emit("payment.processed").json(&order)?;
    Ok(())
}

/// Nobody has paid in time. What follows is what follows a card that was refused.
fn expire(_: &Event) -> Outcome {
    step(Some(Status::Invoiced), Status::Unpaid)?;
    emit("payment.failed").json(&Refusal { why: "nobody paid in time".to_owned() })?;
    Ok(())
}

/// The happy end; there is nothing to emit, for `payment.processed` says it all.
fn finish(_: &Event) -> Outcome {
    expect(Some(Status::Paid))
}

fn release(_: &Event, refusal: Refusal) -> Outcome {
    step(Some(Status::Unpaid), Status::Released)?;
    let order: Order = state::get("order")?.ok_or_else(|| reject("nothing is reserved"))?;
    state::set("why", &refusal.why)?;
    emit("inventory.released").json(&order)?;
    Ok(())
}

fn cancel(_: &Event) -> Outcome {
    step(Some(Status::Released), Status::Cancelled)?;
    let why = state::get("why")?.unwrap_or_default();
    emit("order.cancelled").json(&Refusal { why })?;
    Ok(())
}

/// Takes the order from one status to the next.
fn step(from: Option<Status>, to: Status) -> Result<(), Failure> {
    expect(from)?;
    Ok(state::set("status", &to)?)
}

/// Anybody can publish `payment.failed`: what does not fit where the order is, is refused.
fn expect(status: Option<Status>) -> Result<(), Failure> {
    let found: Option<Status> = state::get("status")?;
    if found == status {
        return Ok(());
    }
    Err(reject(format!("the order is {}, this step needs it {}", name(found), name(status))))
}

fn name(status: Option<Status>) -> &'static str {
    match status {
        None => "new",
        Some(Status::Reserved) => "reserved",
        Some(Status::Invoiced) => "invoiced",
        Some(Status::Paid) => "paid",
        Some(Status::Unpaid) => "unpaid",
        Some(Status::Released) => "released",
        Some(Status::Cancelled) => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tidegate_sdk::testing::{Effects, Host, Input, Verdict, event};

    use super::handle;

    fn order(amount: u64) -> Input {
        let data = json!({ "sku": "lamp", "quantity": 1, "amount": amount });
        event("order.created").key("o-1").json(&data)
    }

    fn kinds(saga: &[Effects]) -> Vec<&str> {
        saga.iter().flat_map(|effects| effects.kinds()).collect()
    }

    #[test]
    fn paid_order_ends_with_the_payment() {
        let mut host = Host::new();
        let saga = host.cascade(handle, order(40));
        assert_eq!(kinds(&saga), ["inventory.reserved", "payment.processed"]);
        assert!(saga.iter().all(|effects| effects.outcome == Verdict::Ok));
        assert_eq!(host.state::<String>("o-1", "status").as_deref(), Some("paid"));
    }

    #[test]
    fn unpaid_order_is_undone_step_by_step() {
        let mut host = Host::new().with_config("card-limit", "39");
        let saga = host.cascade(handle, order(40));
        assert_eq!(
            kinds(&saga),
            ["inventory.reserved", "payment.failed", "inventory.released", "order.cancelled"]
        );
        let cancelled = saga[3].emitted[0].json::<serde_json::Value>();
        assert_eq!(cancelled, json!({ "why": "40 is over the limit of 39" }));
        assert_eq!(host.state::<String>("o-1", "status").as_deref(), Some("cancelled"));
    }

    fn invoiced(host: &mut Host) {
        let data = json!({ "sku": "lamp", "quantity": 1, "amount": 4000, "pay": "invoice" });
        let saga = host.cascade(handle, event("order.created").key("o-1").json(&data));
        assert_eq!(kinds(&saga), ["inventory.reserved", "payment.requested"]);
    }

    #[test]
    fn an_invoice_that_is_paid_in_time_ends_well() {
        let mut host = Host::new();
        invoiced(&mut host);
        host.advance(Duration::from_secs(899));
        assert!(host.fire(handle).is_empty());
        let saga = host.cascade(handle, event("payment.received").key("o-1"));
        assert_eq!(kinds(&saga), ["payment.processed"]);
        assert!(host.timers("o-1").is_empty());
        host.advance(Duration::from_secs(3600));
        assert!(host.fire(handle).is_empty());
        assert_eq!(host.state::<String>("o-1", "status").as_deref(), Some("paid"));
    }

    #[test]
    fn an_invoice_that_nobody_pays_is_undone_at_the_deadline() {
        let mut host = Host::new().with_config("invoice-seconds", "60");
        invoiced(&mut host);
        host.advance(Duration::from_secs(60));
        let fired = host.fire(handle);
        assert_eq!(kinds(&fired), ["payment.failed"]);
        let late = host.deliver(handle, event("payment.received").key("o-1"));
        assert!(matches!(late.outcome, Verdict::Reject { .. }));
    }

    #[test]
    fn the_same_order_is_not_taken_twice() {
        let mut host = Host::new();
        host.cascade(handle, order(40));
        let again = host.deliver(handle, order(40));
        let reason = "the order is paid, this step needs it new".into();
        assert_eq!(again.outcome, Verdict::Reject { reason });
    }

    #[test]
    fn events_out_of_turn_are_rejected() {
        let failed = event("payment.failed").key("o-1").json(&json!({ "why": "forged" }));
        let effects = Host::new().deliver(handle, failed);
        assert!(matches!(effects.outcome, Verdict::Reject { .. }));
    }

    #[test]
    fn sample_is_an_order() {
        let sample = Input::cloud_event(include_str!("../events/order-created.json"));
        let effects = Host::new().deliver(handle, sample).expect_ok();
        assert_eq!(effects.kinds(), ["inventory.reserved"]);
    }
}
