//! Texts that come again and again in one frame: sources, types, media types, names of attributes.
//!
//! An owned event has an `Arc<str>` for each of its texts. Most of them are those of the event
//! before: one allocation serves them all.

use std::sync::Arc;

/// Texts remembered.
const TEXTS: usize = 16;

/// The last few texts of a frame, by where they fall.
#[derive(Debug, Default)]
pub struct Texts([Option<Arc<str>>; TEXTS]);

impl Texts {
    /// The text, owned; shared with the last one that was the same, mostly.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        // Length and last byte set the few texts of a log apart well enough; a clash costs an
        // allocation.
        let last = text.as_bytes().last().copied().unwrap_or_default();
        let place = (text.len() ^ usize::from(last)) % TEXTS;
        let Some(slot) = self.0.get_mut(place) else { return text.into() };
        match slot {
            Some(known) if **known == *text => Arc::clone(known),
            _ => Arc::clone(slot.insert(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_shared_and_another_is_not() {
        let mut texts = Texts::default();
        let first = texts.share("order.created");
        assert!(Arc::ptr_eq(&first, &texts.share("order.created")));
        // The same length and last byte.
        let clash = texts.share("order.dropped");
        assert_eq!((&*first, &*clash), ("order.created", "order.dropped"));
        assert_eq!(&*texts.share("order.created"), "order.created");
        assert_eq!(&*texts.share(""), "");
    }
}
