//! Bank accounts: one of each key, with the commands `open`, `deposit`, `withdraw` and `close`, and
//! the question `balance`. An account is never overdrawn.
//!
//! Teaches: an aggregate. A command is decided on the state of its key and leads to events, or is
//! refused with the reason; the events alone make the state. Commands of one account come one at a
//! time, so that two withdrawals at once cannot both see the same money.

use serde::{Deserialize, Serialize};
use tidegate_sdk::aggregate::Aggregate;
use tidegate_sdk::{Answer, Failure, Request, Response, aggregate, reject};

/// An account. Amounts are in the smallest coin.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    owner: String,
    balance: u64,
    status: Status,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Nothing has happened under this key yet.
    #[default]
    None,
    Open,
    Closed,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    Open { owner: String },
    Deposit { amount: u64 },
    Withdraw { amount: u64 },
    Close,
}

#[derive(Serialize, Deserialize)]
enum Happened {
    #[serde(rename = "account.opened")]
    Opened { owner: String },
    #[serde(rename = "account.deposited")]
    Deposited { amount: u64 },
    #[serde(rename = "account.withdrawn")]
    Withdrawn { amount: u64 },
    #[serde(rename = "account.closed")]
    Closed,
}

impl Aggregate for Account {
    type Command = Command;
    type Event = Happened;

    fn decide(&self, command: Command, _: &Request) -> Result<Vec<Happened>, Failure> {
        match (&command, self.status) {
            (Command::Open { .. }, Status::None) => {}
            (Command::Open { .. }, _) => return Err(reject("there is such an account already")),
            (_, Status::None) => return Err(reject("there is no such account")),
            (_, Status::Closed) => return Err(reject("the account is closed")),
            (_, Status::Open) => {}
        }
        let event = match command {
            Command::Open { owner } if owner.is_empty() => {
                return Err(reject("an account needs an owner"));
            }
            Command::Deposit { amount: 0 } | Command::Withdraw { amount: 0 } => {
                return Err(reject("an amount of 0 moves nothing"));
            }
            Command::Deposit { amount } if self.balance.checked_add(amount).is_none() => {
                return Err(reject(format!("{amount} more is more than an account can hold")));
            }
            Command::Withdraw { amount } if amount > self.balance => {
                let balance = self.balance;
                return Err(reject(format!("overdrawn: {amount} of a balance of {balance}")));
            }
            Command::Close if self.balance > 0 => {
                return Err(reject(format!("{} is still on the account", self.balance)));
            }
            Command::Open { owner } => Happened::Opened { owner },
            Command::Deposit { amount } => Happened::Deposited { amount },
            Command::Withdraw { amount } => Happened::Withdrawn { amount },
            Command::Close => Happened::Closed,
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: &Happened) {
        match event {
            Happened::Opened { owner } => {
                self.owner.clone_from(owner);
                self.status = Status::Open;
            }
            Happened::Deposited { amount } => self.balance += amount,
            Happened::Withdrawn { amount } => self.balance -= amount,
            Happened::Closed => self.status = Status::Closed,
        }
    }

    fn answer(&self, version: u64) -> Answer {
        Ok(Response::json(&Moved { version, balance: self.balance })?)
    }
}

/// The answer to a command.
#[derive(Serialize)]
struct Moved {
    /// Events of the account so far.
    version: u64,
    balance: u64,
}

aggregate! { Account, "balance" => balance }

fn balance(request: &Request) -> Answer {
    let account = aggregate::load::<Account>()?;
    if account.version == 0 {
        let key = request.key().unwrap_or_default();
        return Err(reject(format!("there is no account `{key}`: ask with its key")));
    }
    Ok(Response::json(&account.state)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_sdk::testing::{Host, Input, request};
    use tidegate_sdk::{Failure, reject};

    use super::{execute, handle, read};

    fn ask(host: &mut Host, operation: &str, body: Value) -> Result<Value, Failure> {
        let (answer, effects) = host.execute(execute, request(operation).key("a").json(&body));
        for event in &effects.emitted {
            assert!(host.deliver(handle, event).expect_ok().state.is_empty(), "held already");
        }
        answer.map(|response| serde_json::from_slice(response.body()).unwrap())
    }

    fn opened() -> Host {
        let mut host = Host::new();
        ask(&mut host, "open", json!({ "owner": "ada" })).unwrap();
        host
    }

    #[test]
    fn an_account_lives_from_open_to_close() {
        let mut host = opened();
        let answer = ask(&mut host, "deposit", json!({ "amount": 40 }));
        assert_eq!(answer, Ok(json!({ "version": 2, "balance": 40 })));
        ask(&mut host, "withdraw", json!({ "amount": 40 })).unwrap();
        let answer = host.read(read, request("balance").key("a")).unwrap();
        assert_eq!(answer.body(), br#"{"owner":"ada","balance":0,"status":"open"}"#);
        assert_eq!(ask(&mut host, "close", Value::Null), Ok(json!({ "version": 4, "balance": 0 })));
        let refused = ask(&mut host, "open", json!({ "owner": "ada" }));
        assert_eq!(refused, Err(reject("there is such an account already")));
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut host = opened();
        ask(&mut host, "deposit", json!({ "amount": 7 })).unwrap();
        for (operation, body, why) in [
            ("open", json!({ "owner": "bob" }), "there is such an account already"),
            ("withdraw", json!({ "amount": 8 }), "overdrawn: 8 of a balance of 7"),
            ("withdraw", json!({ "amount": 0 }), "an amount of 0 moves nothing"),
            (
                "deposit",
                json!({ "amount": u64::MAX }),
                "18446744073709551615 more is more than an account can hold",
            ),
            ("close", json!({}), "7 is still on the account"),
        ] {
            assert_eq!(ask(&mut host, operation, body), Err(reject(why)));
        }
        assert_eq!(host.state::<Value>("a", "aggregate").unwrap()["version"], 2);
        let none = ask(&mut Host::new(), "deposit", json!({ "amount": 1 }));
        assert_eq!(none, Err(reject("there is no such account")));
        assert!(host.read(read, request("balance").key("b")).is_err());
    }

    #[test]
    fn events_alone_give_the_same_account() {
        let mut host = opened();
        let mut again = Host::new();
        let sample = Input::cloud_event(include_str!("../events/account-opened.json")).key("a");
        again.deliver(handle, sample).expect_ok();
        for (operation, amount) in [("deposit", 9), ("withdraw", 10), ("withdraw", 4)] {
            let ask = request(operation).key("a").json(&json!({ "amount": amount }));
            for event in &host.execute(execute, ask).1.emitted {
                again.deliver(handle, event).expect_ok();
            }
        }
        let account = json!({ "owner": "ada", "balance": 5, "status": "open" });
        for host in [host, again] {
            let state: Value = host.state("a", "aggregate").unwrap();
            assert_eq!(state, json!({ "version": 3, "state": account }));
        }
    }
}
