//! What a runner tells people while it works: its log lines and one note a delivery.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ecow::EcoString;
use tokio::sync::broadcast;

use crate::effects::OutcomeKind;
use crate::event::{Event, Position};

/// Log lines kept of one plugin.
const LINES_KEPT: usize = 1000;
/// Log lines, or notes, a listener may be behind before it misses some.
const BEHIND_MAX: usize = 4096;

/// One line a plugin logged.
#[derive(Debug, Clone)]
pub struct Line {
    /// Wall time, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text as the guest gave it.
    pub message: String,
    /// The input event; none: the host speaks of the plugin as such.
    pub position: Option<Position>,
    /// The input's key.
    pub key: Option<String>,
    /// The attempt.
    pub attempt: Option<u32>,
}

/// A line with its number in the log, from 1.
pub type Numbered = (u64, Arc<Line>);

/// Where somebody begins to read a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// With the last so many of the lines that are kept.
    Last(usize),
    /// After the line with this number; one that is not there yet is of another log, and nothing is passed
    /// over.
    After(u64),
}

/// The log of one plugin: the last lines, and a way to follow.
#[derive(Debug)]
pub struct PluginLog {
    kept: Mutex<VecDeque<Numbered>>,
    new: broadcast::Sender<Numbered>,
}

impl Default for PluginLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), new: broadcast::channel(BEHIND_MAX).0 }
    }
}

/// What is read of a [`PluginLog`].
#[derive(Debug)]
pub struct Following {
    /// The number before that of the first line.
    pub begins_after: u64,
    /// Lines that are kept, oldest first.
    pub kept: Vec<Numbered>,
    /// Those to come.
    pub new: broadcast::Receiver<Numbered>,
}

impl PluginLog {
    /// Adds a line.
    pub fn push(&self, line: Line) {
        let line = Arc::new(line);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = last_of(&kept) + 1;
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back((number, Arc::clone(&line)));
        // Under the lock, so that who follows neither misses a line nor sees one twice. An error
        // means that nobody follows.
        let _ = self.new.send((number, line));
    }

    /// The lines from there on, and those to come.
    #[must_use]
    pub fn follow(&self, from: Beginning) -> Following {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = match from {
            Beginning::Last(recent) => kept.len().saturating_sub(recent),
            Beginning::After(number) if number > last_of(&kept) => 0,
            Beginning::After(number) => kept.partition_point(|(kept, _)| *kept <= number),
        };
        let begins_after = last_of(&kept) - kept.len().saturating_sub(skip) as u64;
        let kept = kept.iter().skip(skip).cloned().collect();
        Following { begins_after, kept, new: self.new.subscribe() }
    }
}

fn last_of(kept: &VecDeque<Numbered>) -> u64 {
    kept.back().map_or(0, |(number, _)| *number)
}

/// One delivery, for people to watch.
#[derive(Debug, Clone)]
pub struct Note {
    /// Name of the plugin.
    pub plugin: Arc<str>,
    /// The input.
    pub event: Arc<Event>,
    /// How the attempt ended.
    pub outcome: OutcomeKind,
    /// Why, where it failed.
    pub reason: String,
    /// Its number.
    pub attempt: u32,
    /// How long it took.
    pub wall: Duration,
    /// Fuel it used.
    pub fuel: u64,
    /// State it wrote: name and value as text where it is some; at most three.
    pub state: Vec<(EcoString, String)>,
    /// Timers it set: name, and milliseconds from the end of the delivery until it is due.
    pub timers: Vec<(Arc<str>, u64)>,
    /// Types it emitted.
    pub emitted: Vec<Arc<str>>,
    /// Position of the first of them.
    pub first_position: Option<Position>,
    /// When it is tried again, in milliseconds from now; none: it is over.
    pub again_ms: Option<u64>,
    /// Whether it became a dead letter.
    pub dead: bool,
    /// Whether its key waits behind it.
    pub parked: bool,
    /// Number of the dead letter in its bus.
    pub dead_letter: Option<u64>,
}

/// Where notes go. Nobody listening costs one atomic load a delivery.
#[derive(Debug, Clone)]
pub struct Notes(broadcast::Sender<Arc<Note>>);

impl Default for Notes {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND_MAX).0)
    }
}

impl Notes {
    /// Whether anybody listens.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells whoever listens.
    pub fn tell(&self, note: Note) {
        let _ = self.0.send(Arc::new(note));
    }

    /// Listens. Who lags misses some.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Note>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(log: &PluginLog, from: Beginning) -> Vec<u64> {
        let Following { begins_after, kept, .. } = log.follow(from);
        assert!(kept.iter().all(|(number, line)| line.message == number.to_string()));
        let last = last_of(&log.kept.lock().unwrap());
        assert!((begins_after + 1..=last).eq(kept.iter().map(|(number, _)| *number)));
        kept.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn who_says_the_last_line_seen_gets_all_that_is_kept_behind_it() {
        let log = PluginLog::default();
        assert!(follow(&log, Beginning::After(3)).is_empty());
        let lines = LINES_KEPT as u64 + 5;
        for number in 1..=lines {
            log.push(Line {
                at_ms: 0,
                level: "info".to_owned(),
                message: number.to_string(),
                position: None,
                key: None,
                attempt: None,
            });
        }
        assert_eq!(follow(&log, Beginning::Last(2)), [lines - 1, lines]);
        assert_eq!(follow(&log, Beginning::After(lines - 2)), [lines - 1, lines]);
        assert!(follow(&log, Beginning::After(lines)).is_empty());
        for all in [Beginning::Last(5000), Beginning::After(2), Beginning::After(lines + 1)] {
            assert_eq!(follow(&log, all), (6..=lines).collect::<Vec<_>>(), "{all:?}");
        }
    }
}
