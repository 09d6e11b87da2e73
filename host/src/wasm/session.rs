//! One invocation as the host sees it while the guest runs: what the guest may know, what it has
//! asked for so far, what is left of its budgets.
//!
//! The rule that must not break: nothing leaves here before the guest has returned ok within its
//! budgets. Every write has two halves: `draft_*` checks borrowed arguments and makes the owned
//! effect, the other takes it. So arguments are read in place, in the guest's memory, which cannot
//! be held across a change.

mod later;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::thread::LocalKey;

use bytes::Bytes;
use ecow::{EcoBytes, EcoString};
use hashbrown::HashMap;

use super::check::{self, Text};
use super::context::{Access, Context, Denial, DraftIn, Exceeded};
use super::delivery::Invocation;
use super::limits::{Breach, HOST_CALLS_MAX};
use crate::effects::{Draft, Response, StateWrite, ends_at};
use crate::event::Key;
use crate::limits;
use crate::log::record::LogLine;
use crate::texts::Texts;

thread_local! {
    /// Types of events that guests used last on this thread, checked. Its own: those of the input are
    /// counted by every thread that has one of its neighbours.
    static TYPES: RefCell<Texts> = RefCell::default();
    /// Media types, likewise.
    static CONTENT_TYPES: RefCell<Texts> = RefCell::default();
}

/// Writes of state up to which they are searched one by one.
const WRITES_SEARCHED_MAX: usize = 16;

/// See the top of the file.
pub(super) struct Session {
    pub(super) context: Context,
    /// What it comes to. On the heap, so that it is not copied from hand to hand.
    invocation: Box<Invocation>,
    /// Place of each name in `effects.state`, once there are many.
    places: HashMap<EcoString, usize>,
    output_bytes: usize,
    exceeded: Option<Exceeded>,
    host_calls: u32,
    random_calls: u32,
}

/// What is left of a session when the guest is done.
#[derive(Default)]
pub(super) struct Record {
    /// With effects and logs; the rest is not known here.
    pub(super) invocation: Box<Invocation>,
    pub(super) exceeded: Option<Exceeded>,
}

impl Session {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            invocation: Box::default(),
            places: HashMap::new(),
            output_bytes: 0,
            exceeded: None,
            host_calls: 0,
            random_calls: 0,
        }
    }

    /// What it came to. Nothing is left of that: once its context is another one, it is as new.
    pub(super) fn finish(&mut self) -> Record {
        self.finish_into(Box::default())
    }

    /// As [`Self::finish`], with the memory for what comes next: an invocation as new.
    pub(super) fn finish_into(&mut self, next: Box<Invocation>) -> Record {
        // By name, so that a field that is added is not forgotten here.
        let Self {
            context: _,
            invocation,
            places,
            output_bytes,
            exceeded,
            host_calls,
            random_calls,
        } = self;
        *places = HashMap::new();
        *output_bytes = 0;
        (*host_calls, *random_calls) = (0, 0);
        Record { invocation: std::mem::replace(invocation, next), exceeded: exceeded.take() }
    }

    /// Counts one call into the host.
    pub(super) fn host_call(&mut self) -> Result<(), Breach> {
        self.host_calls += 1;
        if self.host_calls > HOST_CALLS_MAX {
            return Err(Breach::Output { budget: "host calls" });
        }
        Ok(())
    }

    // Emits.

    /// Checks an event to be emitted.
    pub(super) fn draft_emit(&self, draft: DraftIn<'_>) -> Result<Draft, Denial> {
        self.may_write()?;
        let limits = &self.context.limits;
        let depth = self.context.event.as_ref().map_or(0, |event| event.depth);
        if depth >= limits::DEPTH_MAX {
            return Err(Denial::Exceeded(Exceeded::Depth));
        }
        let index = u32::try_from(self.invocation.effects.emits.len()).unwrap_or(u32::MAX);
        if index >= limits.emits_max {
            return Err(Denial::Exceeded(Exceeded::EMITS));
        }
        self.has_room(draft.data.len())?;
        let kind = checked(&TYPES, draft.kind, check::event_type)?;
        let content_type = checked(&CONTENT_TYPES, draft.content_type, check::content_type)?;
        check::bytes("`data`", draft.data.len(), limits::EVENT_DATA_BYTES_MAX)?;
        let attributes = check::event_attributes(draft.attributes)?;
        let own = self.context.key();
        let key = match draft.key.or_else(|| subject(&attributes).filter(|_| own.is_none())) {
            None => own.cloned(),
            Some(text) => Some(self.key(text)?),
        };
        let bus = draft.bus.map(|name| self.bus(name)).transpose()?;
        let made = Draft {
            id: self.context.seed.event_id(self.context.position(), index),
            kind,
            key,
            bus,
            content_type,
            data: Bytes::copy_from_slice(draft.data),
            attributes,
        };
        self.has_room(emit_bytes(&made))?;
        Ok(made)
    }

    /// Takes a checked event and answers with its id.
    pub(super) fn emit(&mut self, draft: Result<Draft, Denial>) -> Result<Text, Denial> {
        let draft = self.noted(draft)?;
        let id = draft.id.clone();
        self.output_bytes += emit_bytes(&draft);
        self.invocation.effects.emits.push(draft);
        Ok(id)
    }

    fn key(&self, text: &str) -> Result<Key, Denial> {
        match self.context.key() {
            Some(key) if key.as_str() == text => Ok(key.clone()),
            _ => Key::new(text).map_err(|why| Denial::Invalid(why.to_string())),
        }
    }

    fn bus(&self, name: &str) -> Result<Text, Denial> {
        if self.context.limits.buses.iter().any(|bus| bus == name) {
            return Ok(name.into());
        }
        Err(Denial::Invalid(format!("there is no bus `{}`", check::cut(name, 64))))
    }

    // State.

    /// What a name stands for, own writes included.
    pub(super) fn state(&self, name: &str) -> Option<Vec<u8>> {
        self.context.key()?;
        match self.place(name).and_then(|place| self.invocation.effects.state.get(place)) {
            Some(write) => write.value_at(self.context.now_ms).map(|value| value.to_vec()),
            None if check::name("", name).is_err() => None,
            None => self.context.state().get(name),
        }
    }

    /// Names with a prefix, own writes included.
    pub(super) fn state_names(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
        let limit = listed(limit);
        if self.context.key().is_none() || limit == 0 {
            return Vec::new();
        }
        let own = |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
        let written: BTreeMap<&str, bool> = (self.invocation.effects.state.iter())
            .filter(|write| own(&write.name))
            .map(|write| (&*write.name, write.value_at(self.context.now_ms).is_some()))
            .collect();
        // Each removed name can take one place in what is stored.
        let gone = written.values().filter(|there| !**there).count();
        let stored = self.context.state().list(prefix, after, limit + gone);
        let mut names: Vec<String> =
            stored.into_iter().filter(|name| !written.contains_key(name.as_str())).collect();
        names.extend(
            written.iter().filter(|(_, there)| **there).map(|(name, _)| (*name).to_owned()),
        );
        names.sort_unstable();
        names.truncate(limit);
        names
    }

    /// Checks a write; no value: the name is removed.
    pub(super) fn draft_write(
        &self,
        name: &str,
        value: Option<&[u8]>,
        ttl_ms: Option<u64>,
    ) -> Result<StateWrite, Denial> {
        self.may_write()?;
        if self.context.key().is_none() {
            return Err(Denial::Unkeyed);
        }
        check::name("a name", name)?;
        let place = self.place(name);
        let old = place.and_then(|place| self.invocation.effects.state.get(place));
        if place.is_none() && self.invocation.effects.state.len() >= limits::EFFECTS_MAX {
            return Err(Denial::Exceeded(Exceeded::STATE_WRITES));
        }
        let len = value.map_or(0, <[u8]>::len);
        self.has_room((name.len() + len).saturating_sub(old.map_or(0, StateWrite::bytes)))?;
        check::bytes("a value", len, limits::STATE_VALUE_BYTES_MAX)?;
        let kept = |value: &EcoBytes| name.len() + value.len();
        let own = old.map(|old| old.value.as_ref().map_or(0, kept));
        let new = value.map_or(0, |value| name.len() + value.len());
        let room = self.context.state().grow(name, own, new);
        room.map_err(|limit| Denial::Exceeded(Exceeded::Output(limit)))?;
        Ok(StateWrite {
            name: name.into(),
            value: value.map(EcoBytes::from),
            expires_ms: ttl_ms.map(|ttl_ms| ends_at(self.context.now_ms.saturating_add(ttl_ms))),
        })
    }

    /// Takes a checked write.
    pub(super) fn write(&mut self, write: Result<StateWrite, Denial>) -> Result<(), Denial> {
        let write = self.noted(write)?;
        self.output_bytes += write.bytes();
        if let Some(old) =
            self.place(&write.name).and_then(|place| self.invocation.effects.state.get_mut(place))
        {
            self.output_bytes -= old.bytes();
            *old = write;
            return Ok(());
        }
        self.invocation.effects.state.push(write);
        if self.invocation.effects.state.len() > WRITES_SEARCHED_MAX {
            for place in self.places.len()..self.invocation.effects.state.len() {
                if let Some(write) = self.invocation.effects.state.get(place) {
                    self.places.insert(write.name.clone(), place);
                }
            }
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Option<usize> {
        if self.invocation.effects.state.len() > WRITES_SEARCHED_MAX {
            return self.places.get(name).copied();
        }
        self.invocation.effects.state.iter().position(|write| &*write.name == name)
    }

    // State across keys.

    /// Keys that have state.
    pub(super) fn keys(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
        let keys = self.context.keys.as_ref();
        keys.map_or_else(Vec::new, |keys| keys.list(prefix, after, listed(limit)))
    }

    /// A value under another key.
    pub(super) fn value_of(&self, key: &str, name: &str) -> Option<Vec<u8>> {
        self.context.keys.as_ref()?.get(key, name)
    }

    // The answer.

    /// Takes the answer to a request. It counts as output even where effects are refused.
    pub(super) fn respond(&mut self, response: Response) -> Result<(), Denial> {
        check::content_type(&response.content_type)?;
        let attributes = check::parameters(response.attributes)?;
        let bytes = response.content_type.len() + response.data.len() + check::size(&attributes);
        let room = self.has_room(bytes);
        self.noted(room)?;
        self.output_bytes += bytes;
        self.invocation.effects.response = Some(Response { attributes, ..response });
        Ok(())
    }

    // Context.

    /// The next random number.
    pub(super) fn random(&mut self) -> u64 {
        let call = self.random_calls;
        self.random_calls += 1;
        self.context.seed.random(self.context.position(), self.context.attempt, call)
    }

    /// Keeps a line for the plugin's log.
    pub(super) fn log(&mut self, level: &'static str, message: &str) {
        if self.invocation.logs.len() < limits::LOG_LINES_MAX {
            let message = check::cut(message, limits::LOG_LINE_BYTES_MAX).to_owned();
            self.invocation.logs.push(LogLine { level: level.to_owned(), message });
        }
    }

    fn may_write(&self) -> Result<(), Denial> {
        match self.context.access {
            Access::Write => Ok(()),
            Access::Read => Err(Denial::ReadOnly),
        }
    }

    fn has_room(&self, bytes: usize) -> Result<(), Denial> {
        if self.output_bytes.saturating_add(bytes) > self.context.limits.output_bytes_max {
            return Err(Denial::Exceeded(Exceeded::OUTPUT));
        }
        Ok(())
    }

    /// Remembers the first budget that was exceeded.
    fn noted<T>(&mut self, result: Result<T, Denial>) -> Result<T, Denial> {
        if let Err(Denial::Exceeded(exceeded)) = &result {
            self.exceeded.get_or_insert(*exceeded);
        }
        result
    }
}

/// A text that most deliveries have in common, owned, where the check takes it.
fn checked(
    known: &'static LocalKey<RefCell<Texts>>,
    text: &str,
    check: fn(&str) -> Result<(), String>,
) -> Result<Text, String> {
    known.with_borrow_mut(|texts| texts.share_checked(text, check))
}

/// What is the key of an event that has no other, as whoever reads it sees it.
fn subject(attributes: &[(Text, Text)]) -> Option<&str> {
    let found = attributes.iter().find(|(name, _)| **name == *"subject");
    found.map(|(_, value)| &**value)
}

fn emit_bytes(draft: &Draft) -> usize {
    let key = draft.key.as_ref().map_or(0, |key| key.as_str().len());
    let bus = draft.bus.as_ref().map_or(0, |bus| bus.len());
    let names = draft.kind.len() + key + bus + draft.content_type.len();
    names + draft.data.len() + check::size(&draft.attributes)
}

fn listed(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).min(limits::LIST_MAX)
}

#[cfg(test)]
mod tests;
