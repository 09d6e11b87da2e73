//! As much of the host's vocabulary as its scheduler names.

use std::fmt;
use std::sync::Arc;

/// What orders events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is looked up by.
    pub fn hash128(&self) -> &str {
        &self.0
    }
}

/// Number of an event in its bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the host hands through; the models hand through numbers.
#[derive(Debug)]
pub struct Event;
