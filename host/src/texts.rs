//! Texts that come again and again: sources, types, media types, names of attributes and of state.
//!
//! An owned event has an `Arc<str>` for each of its texts. Most of them are those of the event
//! before: one allocation serves them all.

use std::convert::Infallible;
use std::sync::Arc;

/// Texts remembered.
const TEXTS: usize = 16;

/// The last few texts of a frame, or of a thread, by where they fall.
#[derive(Debug, Default)]
pub struct Texts([Option<Arc<str>>; TEXTS]);

impl Texts {
    /// The text, owned; shared with the last one that was the same, mostly.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        let Ok(shared) = self.share_checked(text, |_| Ok::<_, Infallible>(()));
        shared
    }

    /// As [`Self::share`], for a text that `check` takes. One that is remembered is not checked again: all
    /// that are were to be taken by the same check.
    ///
    /// # Errors
    /// Those of the check.
    pub fn share_checked<E>(
        &mut self,
        text: &str,
        check: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<Arc<str>, E> {
        // Length and last byte set the few texts of a log apart well enough; of two that clash the
        // second one moves on by a place.
        let last = text.as_bytes().last().copied().unwrap_or_default();
        let place = (text.len() ^ usize::from(last)) % TEXTS;
        let mut free = place;
        for place in [(place + 1) % TEXTS, place] {
            match self.0.get(place) {
                Some(Some(known)) if **known == *text => return Ok(Arc::clone(known)),
                Some(None) => free = place,
                _ => {}
            }
        }
        check(text)?;
        let made: Arc<str> = text.into();
        if let Some(slot) = self.0.get_mut(free) {
            *slot = Some(Arc::clone(&made));
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_shared_and_another_is_not() {
        let mut texts = Texts::default();
        // The same length and last byte.
        let all = ["order.created", "order.dropped", "order.stopped", ""];
        let first = all.map(|text| texts.share(text));
        assert_eq!(first.each_ref().map(|text| &**text), all);
        let again = all.map(|text| texts.share(text));
        assert_eq!(again.each_ref().map(|text| &**text), all);
        let is_shared = |at: usize| Arc::ptr_eq(&first[at], &again[at]);
        assert!(is_shared(1) && is_shared(3), "two that clash have room");
    }

    #[test]
    fn what_the_check_refuses_is_not_remembered_and_what_it_took_is_not_checked_again() {
        let mut texts = Texts::default();
        let mut asked = 0;
        let mut share = |text: &str, takes: bool| {
            let check = |_: &str| {
                asked += 1;
                if takes { Ok(()) } else { Err("no") }
            };
            texts.share_checked(text, check).map(|shared| shared.to_string())
        };
        assert_eq!(share("a", false), Err("no"));
        assert_eq!(share("a", false), Err("no"), "it was not remembered");
        assert_eq!(share("a", true).as_deref(), Ok("a"));
        assert_eq!(share("a", true).as_deref(), Ok("a"));
        assert_eq!(asked, 3);
    }
}
