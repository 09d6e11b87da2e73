//! An order goes through stock and payment; what cannot be paid is undone:
//!
//! ```text
//! order.created -> inventory.reserved -> payment.processed
//!                                    \-> payment.failed -> inventory.released -> order.cancelled
//! ```
//!
//! Teaches: a choreography. No function calls the next one. Each step takes one event, checks in the
//! state that the order is where it should be, and emits one event, which is the input of the next
//! step (`own = true` in the manifest). After a crash the saga stands exactly between two events;
//! `tidegate events tree` shows every order as one tree of causes and consequences.

use serde::{Deserialize, Serialize};
use tidegate_sdk::{Event, Failure, Outcome, config_as, emit, handlers, reject, state};

const CARD_LIMIT_DEFAULT: u64 = 1000;

/// What the customer wants; it travels in the first events of the saga.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
    amount: u64,
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
    Paid,
    Unpaid,
    Released,
    Cancelled,
}

handlers! {
    "order.created" => reserve,
    "inventory.reserved" => charge,
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
        Some(Status::Paid) => "paid",
        Some(Status::Unpaid) => "unpaid",
        Some(Status::Released) => "released",
        Some(Status::Cancelled) => "cancelled",
    }
}

#[cfg(test)]
mod tests {
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
