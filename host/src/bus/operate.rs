//! What operators do to keys and dead letters: recorded, then done.
//!
//! What must not break: a record says what the scheduler then does, and it is written only where the
//! scheduler stands still in that respect. So a dead letter whose delivery is under way is left
//! alone (nobody but that delivery ends it), and callers do one thing at a time for each plugin.

use std::sync::Arc;

use super::Bus;
use super::runner::{Letter, Runner};
use crate::event::{InstanceId, Key, Position};
use crate::log::AppendError;
use crate::log::record::{Control, ControlRecord};
use crate::state::KeyState;

/// What is done to dead letters.
#[derive(Debug, Clone)]
pub enum Act {
    /// They run again.
    Redrive,
    /// They are given up, for this reason.
    Discard(String),
}

/// What became of dead letters.
#[derive(Debug, Default)]
pub struct Acted {
    /// How many it was done to.
    pub count: u64,
    /// Those left as they are, with the reason.
    pub left: Vec<(u64, &'static str)>,
}

/// Why a key is not let go on.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It does not wait for anybody.
    #[error("key `{0}` is neither parked nor held")]
    Live(Key),
    /// A delivery of it is under way.
    #[error("key `{0}` is being delivered: try again in a moment")]
    Busy(Key),
    /// The log takes nothing.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Starts no more deliveries of a key of a plugin; one that runs goes on. Holding a held key
/// changes nothing.
///
/// # Errors
/// The log takes nothing.
pub async fn hold(
    runner: &Runner,
    key: &Key,
    reason: &str,
    actor: &str,
) -> Result<(), AppendError> {
    let (bus, instance) = (runner.bus(), runner.instance());
    let is_held = {
        let ledger = bus.ledger();
        let state = ledger.instance(instance).and_then(|plugin| plugin.keys.get(key));
        state.is_some_and(|state| state.held.is_some())
    };
    if is_held {
        return Ok(());
    }
    let control = Control::Hold { instance, key: key.clone(), reason: reason.to_owned() };
    record(bus, actor, [control]).await?;
    runner.hold(key);
    Ok(())
}

/// Lets a key go on that is held or parked; a dead letter that parked it stays one. `runner`: where
/// the plugin runs.
///
/// # Errors
/// See [`ReleaseError`].
pub async fn release(
    bus: &Bus,
    instance: InstanceId,
    runner: Option<&Runner>,
    key: &Key,
    actor: &str,
) -> Result<(), ReleaseError> {
    let waits = {
        let ledger = bus.ledger();
        let state = ledger.instance(instance).and_then(|plugin| plugin.keys.get(key));
        state.is_some_and(KeyState::waits)
    };
    if !waits {
        return Err(ReleaseError::Live(key.clone()));
    }
    // A delivery that was begun before may park the key: in the log, too, that is before it is let go on.
    if let Some(runner) = runner
        && !runner.is_still(key).await
    {
        return Err(ReleaseError::Busy(key.clone()));
    }
    let _act = runner.map(Runner::begin_act);
    record(bus, actor, [Control::Release { instance, key: key.clone() }]).await?;
    if let Some(runner) = runner {
        runner.release(key);
    }
    Ok(())
}

/// Does something to dead letters of one plugin, given by their numbers, in one commit. `runner`:
/// where the plugin runs, without which nothing can run again.
///
/// # Errors
/// The log takes nothing.
pub async fn act(
    bus: &Bus,
    instance: InstanceId,
    runner: Option<&Runner>,
    numbers: &[u64],
    act: &Act,
    actor: &str,
) -> Result<Acted, AppendError> {
    let mut acted = Acted::default();
    let (mut standing, mut found) = (Vec::new(), Vec::new());
    for number in numbers {
        match stands(bus, instance, *number) {
            Err(why) => acted.left.push((*number, why)),
            Ok(_) if runner.is_none() && matches!(act, Act::Redrive) => {
                acted.left.push((*number, "its plugin does not run"));
            }
            Ok(letter) => {
                standing.push(*number);
                found.push(letter);
            }
        }
    }
    let at_rest = match runner {
        Some(runner) => runner.at_rest(&found).await,
        None => vec![true; found.len()],
    };
    let mut letters = Vec::with_capacity(found.len());
    for ((number, letter), is_at_rest) in standing.into_iter().zip(found).zip(at_rest) {
        match is_at_rest {
            true => letters.push(letter),
            false => acted.left.push((number, "its delivery is under way")),
        }
    }
    if letters.is_empty() {
        return Ok(acted);
    }
    let _act = runner.map(Runner::begin_act);
    let controls = letters.iter().map(|letter| control(instance, letter.position, act));
    record(bus, actor, controls).await?;
    match (runner, act) {
        (Some(runner), Act::Redrive) => runner.redrive(&letters),
        (Some(runner), Act::Discard(_)) => runner.give_up(&letters),
        (None, _) => {}
    }
    acted.count = letters.len() as u64;
    Ok(acted)
}

async fn record(
    bus: &Bus,
    actor: &str,
    controls: impl IntoIterator<Item = Control>,
) -> Result<(), AppendError> {
    let actor: Arc<str> = actor.into();
    let record = |control| ControlRecord { actor: Arc::clone(&actor), control };
    let records: Vec<_> = controls.into_iter().map(record).collect();
    let committed = bus.control_asked(&records).done().await?;
    bus.until_applied(committed.commit).await;
    Ok(())
}

fn control(instance: InstanceId, position: Position, act: &Act) -> Control {
    match act {
        Act::Redrive => Control::Redrive { instance, position },
        Act::Discard(reason) => Control::Discard { instance, position, reason: reason.clone() },
    }
}

/// A dead letter that something can be done to.
fn stands(bus: &Bus, instance: InstanceId, number: u64) -> Result<Letter, &'static str> {
    let ledger = bus.ledger();
    let letter = ledger.dead_letter(number).filter(|letter| letter.instance == instance);
    let letter = letter.ok_or("it is gone")?;
    let plugin = ledger.instance(instance).ok_or("it is gone")?;
    if plugin.redriving.contains(&letter.position) {
        return Err("it runs again already");
    }
    Ok(Letter {
        position: letter.position,
        key: letter.key.clone(),
        attempts: letter.attempts,
        parks: plugin.is_parked_by(letter.key.as_ref(), letter.position),
    })
}
