//! Which commands of clients the log has, and where their answers stand: what makes a command that
//! is sent twice run once.
//!
//! Only commands with an `Idempotency-Key` are here. Bounded by time and count: what is older than
//! [`COMMANDS_KEPT_MS`] by log time, or beyond [`COMMANDS_KEPT_MAX`], is forgotten, oldest first, and
//! the same command runs anew then.
//!
//! Rule: a function of the log alone. What is forgotten is decided by the log time of what comes
//! in, never by a clock.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::command::{Identity, RequestHash};
use crate::event::{CommitNumber, InstanceId, Position};
use crate::limits::{COMMANDS_KEPT_MAX, COMMANDS_KEPT_MS};

/// One command in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The plugin it is for.
    pub instance: InstanceId,
    /// Its event.
    pub position: Position,
    /// Everything it said.
    pub request: RequestHash,
    /// The commit with its completion; none: it is still to run.
    pub answered: Option<CommitNumber>,
    /// Log time of its event.
    pub time_ms: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    by_identity: HashMap<Identity, Known>,
    /// Those without an answer.
    open: HashMap<Position, Identity>,
    /// Oldest first.
    order: VecDeque<(Position, Identity)>,
}

impl Commands {
    /// The command with this identity.
    #[must_use]
    pub fn get(&self, identity: Identity) -> Option<Known> {
        self.by_identity.get(&identity).copied()
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_identity.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_identity.is_empty()
    }

    /// Takes a command. One of the same identity that is known already is replaced: whoever appended
    /// it did not know of the first.
    pub fn apply_command(&mut self, identity: Identity, known: Known) {
        self.forget_old(known.time_ms);
        self.order.push_back((known.position, identity));
        if known.answered.is_none() {
            self.open.insert(known.position, identity);
        }
        if let Some(before) = self.by_identity.insert(identity, known) {
            self.open.remove(&before.position);
        }
    }

    /// Takes the end of a delivery; most are none of a command that is known.
    pub fn apply_completion(&mut self, position: Position, commit: CommitNumber) {
        let Some(identity) = self.open.remove(&position) else { return };
        if let Some(known) = self.by_identity.get_mut(&identity) {
            known.answered = Some(commit);
        }
    }

    /// Whether [`Commands::apply_completion`] would change anything.
    #[must_use]
    pub fn is_open(&self, position: Position) -> bool {
        self.open.contains_key(&position)
    }

    /// Forgets what belongs to a plugin.
    pub fn forget(&mut self, instance: InstanceId) {
        self.by_identity.retain(|_, known| known.instance != instance);
        let Self { by_identity, open, order } = self;
        open.retain(|_, identity| by_identity.contains_key(identity));
        order.retain(|(_, identity)| by_identity.contains_key(identity));
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((position, identity)) = self.order.front().copied() {
            let current = self.by_identity.get(&identity).filter(|k| k.position == position);
            let keep = current.is_some_and(|known| {
                self.by_identity.len() < COMMANDS_KEPT_MAX
                    && known.time_ms.saturating_add(COMMANDS_KEPT_MS) > now_ms
            });
            if keep {
                return;
            }
            if current.is_some() {
                self.by_identity.remove(&identity);
                self.open.remove(&position);
            }
            self.order.pop_front();
        }
    }
}

/// A command as a checkpoint has it: identity and request in halves, low first; answer 0: none.
#[derive(Serialize, Deserialize)]
struct Row(u32, u64, u64, u64, u64, u64, u64, u64);

fn halves(number: u128) -> (u64, u64) {
    let [low, high] = [number, number >> 64].map(|half| half & u128::from(u64::MAX));
    (u64::try_from(low).unwrap_or_default(), u64::try_from(high).unwrap_or_default())
}

const fn whole(low: u64, high: u64) -> u128 {
    (high as u128) << 64 | low as u128
}

impl Serialize for Commands {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let rows = self.order.iter().filter_map(|(position, identity)| {
            let known = self.by_identity.get(identity).filter(|k| k.position == *position)?;
            let (id, request) = (halves(identity.0), halves(known.request.0));
            let answer = known.answered.map_or(0, |commit| commit.0);
            let (instance, time) = (known.instance.0, known.time_ms);
            Some(Row(instance, position.0, time, answer, id.0, id.1, request.0, request.1))
        });
        to.collect_seq(rows.collect::<Vec<_>>())
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut commands = Self::default();
        for row in Vec::<Row>::deserialize(from)? {
            let Row(instance, position, time_ms, answer, id_low, id_high, low, high) = row;
            let known = Known {
                instance: InstanceId(instance),
                position: Position(position),
                request: RequestHash(whole(low, high)),
                answered: (answer != 0).then_some(CommitNumber(answer)),
                time_ms,
            };
            commands.apply_command(Identity(whole(id_low, id_high)), known);
        }
        Ok(commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(position: u64, time_ms: u64) -> Known {
        Known {
            instance: InstanceId(1),
            position: Position(position),
            request: RequestHash(u128::MAX - u128::from(position)),
            answered: None,
            time_ms,
        }
    }

    const fn id(number: u64) -> Identity {
        Identity((number as u128) << 70 | 7)
    }

    #[test]
    fn an_answer_is_found_by_the_identity_of_its_command() {
        let mut commands = Commands::default();
        commands.apply_command(id(1), known(10, 5));
        assert!(commands.is_open(Position(10)));
        commands.apply_completion(Position(9), CommitNumber(3));
        assert_eq!(commands.get(id(1)).unwrap().answered, None);
        commands.apply_completion(Position(10), CommitNumber(4));
        assert_eq!(commands.get(id(1)).unwrap().answered, Some(CommitNumber(4)));
        assert!(!commands.is_open(Position(10)));
        assert_eq!(commands.get(id(2)), None);
    }

    #[test]
    fn what_is_too_old_by_log_time_is_forgotten() {
        let mut commands = Commands::default();
        commands.apply_command(id(1), known(10, 5));
        commands.apply_command(id(2), known(11, 4 + COMMANDS_KEPT_MS));
        assert!(commands.get(id(1)).is_some());
        commands.apply_command(id(3), known(12, 5 + COMMANDS_KEPT_MS));
        assert_eq!(commands.get(id(1)), None);
        assert_eq!((commands.len(), commands.open.len(), commands.order.len()), (2, 2, 2));
    }

    #[test]
    fn a_later_command_of_the_same_identity_takes_its_place() {
        let mut commands = Commands::default();
        commands.apply_command(id(1), known(10, 5));
        commands.apply_command(id(1), known(11, 6));
        commands.apply_completion(Position(10), CommitNumber(4));
        assert_eq!(commands.get(id(1)), Some(known(11, 6)));
        commands.apply_command(id(2), known(12, 5 + COMMANDS_KEPT_MS));
        assert!(commands.get(id(1)).is_some(), "the first one's age is not its own");
    }

    #[test]
    fn a_checkpoint_gives_back_what_it_was_made_of() {
        let mut commands = Commands::default();
        for number in 1..50 {
            commands.apply_command(id(number), known(number, number));
        }
        commands.apply_completion(Position(7), CommitNumber(90));
        commands.apply_command(id(8), known(60, 60));
        let bytes = rmp_serde::to_vec_named(&commands).unwrap();
        let read: Commands = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(read.by_identity, commands.by_identity);
        assert_eq!(read.open, commands.open);
        assert_eq!(rmp_serde::to_vec_named(&read).unwrap(), bytes);
    }

    #[test]
    fn a_forgotten_plugin_leaves_no_command() {
        let mut commands = Commands::default();
        commands.apply_command(id(1), known(10, 5));
        commands.apply_command(id(2), Known { instance: InstanceId(2), ..known(11, 5) });
        commands.forget(InstanceId(1));
        assert_eq!((commands.len(), commands.open.len(), commands.order.len()), (1, 1, 1));
    }
}
