//! `bank-account` in the real host against a plain account: random commands, also at once, also on
//! one account with expected sequences.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Answer, Host, Http, Place, Sources, put, root, seed};

const PLUGIN: &str = "bank-account";
/// Clients that send commands at once.
const CLIENTS: u64 = 4;
/// Commands of a client for accounts of its own.
const COMMANDS: usize = 600;
/// Successful commands of a client for the account that all share.
const SHARED: u64 = 40;

/// What an account is, without events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Account {
    opened: bool,
    closed: bool,
    balance: u64,
    version: u64,
}

impl Account {
    /// Whether a command is right, and what comes of it.
    fn run(&mut self, command: &str, amount: u64) -> bool {
        let live = self.opened && !self.closed;
        let right = match command {
            "open" => !self.opened,
            "deposit" => live && amount > 0,
            "withdraw" => live && amount > 0 && amount <= self.balance,
            _ => live && self.balance == 0,
        };
        if right {
            self.version += 1;
            match command {
                "open" => self.opened = true,
                "deposit" => self.balance += amount,
                "withdraw" => self.balance -= amount,
                _ => self.closed = true,
            }
        }
        right
    }

    fn view(self) -> Value {
        let status = if self.closed { "closed" } else { "open" };
        json!({ "owner": "ada", "balance": self.balance, "status": status })
    }
}

fn send(http: &Http, command: &str, key: &str, amount: u64, expected: Option<u64>) -> Answer {
    let path = format!("/v1/plugins/{PLUGIN}/command/{command}?key={key}");
    let body = match command {
        "open" => json!({ "owner": "ada" }),
        "close" => json!({}),
        _ => json!({ "amount": amount }),
    };
    let expected = expected.map(|sequence| sequence.to_string());
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(expected.as_deref().map(|text| ("Tidegate-Expected-Sequence", text)));
    let answer = http.send("POST", &path, &headers, body.to_string().as_bytes());
    answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
}

/// Random commands for accounts that nobody else uses: each is answered as the model says.
fn own_accounts(http: &Http, client: u64, mut rng: fastrand::Rng) -> Vec<(String, Account)> {
    let mut accounts: Vec<(String, Account)> =
        (0..6).map(|n| (format!("own-{client}-{n}"), Account::default())).collect();
    for _ in 0..COMMANDS {
        let which = rng.usize(..accounts.len());
        let (key, account) = &mut accounts[which];
        let command = match rng.u32(..20) {
            0 => "close",
            1 | 2 => "open",
            3..11 => "deposit",
            _ => "withdraw",
        };
        let amount = rng.u64(..100);
        let before = *account;
        let right = account.run(command, amount);
        let answer = send(http, command, key, amount, None);
        let said = format!("{command} {amount} on {before:?}: {answer:?}");
        if right {
            assert_eq!(answer.header("tidegate-sequence"), Some(&*account.version.to_string()));
            let expected = json!({ "version": account.version, "balance": account.balance });
            assert_eq!(answer.expect_ok(), expected, "{said}");
        } else {
            assert_eq!((answer.status, answer.code()), (422, "rejected".to_owned()), "{said}");
        }
    }
    accounts
}

/// Deposits and withdrawals on one account, each on the condition that nothing has happened since the
/// client looked. Returns the sequences and amounts of those that were done.
fn shared_account(http: &Http, mut rng: fastrand::Rng, conflicts: &AtomicU64) -> Vec<(u64, i64)> {
    let mut done = Vec::new();
    let mut seen = 1;
    while (done.len() as u64) < SHARED {
        let (command, amount) =
            if rng.bool() { ("deposit", rng.u64(1..50)) } else { ("withdraw", rng.u64(1..60)) };
        let answer = send(http, command, "shared", amount, Some(seen));
        match (answer.status, answer.code().as_str()) {
            (200, _) => {
                let sequence: u64 = answer.header("tidegate-sequence").unwrap().parse().unwrap();
                assert_eq!(sequence, seen + 1, "the condition held");
                let amount = i64::try_from(amount).unwrap();
                done.push((sequence, if command == "deposit" { amount } else { -amount }));
                seen = sequence;
            }
            (409, "sequence_conflict") => {
                conflicts.fetch_add(1, Ordering::Relaxed);
                let actual = answer.json()["error"]["actual"].as_u64().unwrap();
                assert_ne!(actual, seen);
                seen = actual;
            }
            (422, "rejected") => {}
            other => panic!("{other:?}: {answer:?}"),
        }
    }
    done
}

fn balance(host: &Host, key: &str) -> Answer {
    host.http.get(&format!("/v1/plugins/{PLUGIN}/query/balance?key={key}"))
}

/// The account that the events of a key make.
fn replay(host: &Host, key: &str) -> Account {
    let mut account = Account::default();
    for event in host.http.events(&format!("key={key}")) {
        let command = match event["type"].as_str().unwrap() {
            "account.opened" => "open",
            "account.deposited" => "deposit",
            "account.withdrawn" => "withdraw",
            "account.closed" => "close",
            other => panic!("an event of type {other}"),
        };
        let amount = event["data"]["amount"].as_u64().unwrap_or_default();
        assert!(account.run(command, amount), "{event} on {account:?}");
        assert_eq!(event["aggregateversion"], account.version.to_string());
    }
    account
}

fn check(host: &Host, accounts: &[(String, Account)]) {
    for (key, account) in accounts {
        assert_eq!(replay(host, key), *account, "{key}");
        if account.opened {
            assert_eq!(balance(host, key).expect_ok(), account.view(), "{key}");
        } else {
            assert_eq!(balance(host, key).status, 422, "{key}");
        }
    }
}

#[test]
fn balances_are_those_of_a_plain_account_also_of_commands_at_once_and_after_a_kill() {
    let mut rng = seed("bank");
    let place = Place::new();
    put(Sources::BANK_ACCOUNT, &place.plugins());
    let host = place.start();
    assert_eq!(send(&host.http, "open", "shared", 0, Some(0)).status, 200);
    assert_eq!(send(&host.http, "open", "shared", 0, Some(0)).status, 409);
    let conflicts = AtomicU64::new(0);
    let (mut accounts, mut moves): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (http, rng, conflicts) = (host.http.clone(), rng.fork(), &conflicts);
                scope.spawn(move || {
                    let mut rng = rng;
                    let moves = shared_account(&http, rng.fork(), conflicts);
                    (own_accounts(&http, client, rng), moves)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).unzip()
    });
    let mut moves: Vec<(u64, i64)> = moves.drain(..).flatten().collect();
    moves.sort_unstable();
    let sequences: Vec<u64> = moves.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, (2..2 + CLIENTS * SHARED).collect::<Vec<_>>());
    assert!(conflicts.into_inner() > 0, "clients that never met prove nothing");
    let sum: i64 = moves.iter().map(|(_, amount)| amount).sum();
    let shared = Account {
        opened: true,
        closed: false,
        balance: u64::try_from(sum).unwrap(),
        version: 1 + moves.len() as u64,
    };
    let mut all: Vec<(String, Account)> = accounts.drain(..).flatten().collect();
    all.push(("shared".to_owned(), shared));
    check(&host, &all);
    host.kill();
    let host = place.start();
    check(&host, &all);
    host.wait_rest(PLUGIN, 0);
    assert!(host.dead_letters(PLUGIN).is_empty());
    host.stop();
}

/// They once began with a deposit, for which there was no account.
#[test]
fn what_the_readme_asks_of_it_is_answered() {
    let place = Place::new();
    put(Sources::BANK_ACCOUNT, &place.plugins());
    let host = place.start();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().filter_map(|line| line.trim().strip_prefix("$ tidegate "));
    let mut said = String::new();
    for line in lines.filter(|line| line.contains(" bank-account ")) {
        let words: Vec<_> = line.split(' ').map(|word| word.trim_matches('\'')).collect();
        said = host.cli(&words).run().expect_done();
    }
    assert!(said.contains("\"balance\":40"), "{said}");
    host.stop();
}
