//! Enums whose variants carry names from outside: an event type, the operation of a request.
//!
//! In serde's terms: an externally tagged enum whose tag travels beside its content.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess};
use serde::{Deserializer, Serialize, de, forward_to_deserialize_any};

use crate::{Error, json};

/// Why there is no such value.
#[derive(Debug)]
pub(crate) enum TagError {
    /// No variant has this name; these are there.
    Unknown(&'static [&'static str]),
    /// The content is not what the variant takes.
    Content(String),
}

/// The variant called `tag` of `T`, with its content in JSON. A variant without fields takes any
/// content; no content at all stands for an object without fields.
pub(crate) fn read<T: DeserializeOwned>(tag: &str, content: &[u8]) -> Result<T, TagError> {
    T::deserialize(Tagged { tag, content })
}

/// The name of a variant and its content as JSON; none where it has no fields.
pub(crate) fn write<T: Serialize>(value: &T) -> Result<(String, Option<Vec<u8>>), Error> {
    const WHAT: &str = "an event of the aggregate";
    let no_enum = || Error::Encode {
        what: WHAT.to_owned(),
        why: "it must be an enum with a variant for each event type".to_owned(),
    };
    let text = json::write(value, || WHAT.to_owned())?;
    let what = || WHAT.to_owned();
    match text.first() {
        Some(b'"') => Ok((json::read(&text, what)?, None)),
        // `{"tag":content}`, without blanks.
        Some(b'{') => {
            let end = end_of_string(&text, 1).ok_or_else(no_enum)?;
            let (Some(tag), Some(content)) = (text.get(1..end), text.get(end + 1..text.len() - 1))
            else {
                return Err(no_enum());
            };
            Ok((json::read(tag, what)?, Some(content.to_vec())))
        }
        _ => Err(no_enum()),
    }
}

/// Where the JSON string that begins at `from` is over.
fn end_of_string(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from + 1;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

struct Tagged<'a> {
    tag: &'a str,
    content: &'a [u8],
}

impl<'de> Deserializer<'de> for Tagged<'de> {
    type Error = TagError;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, TagError> {
        Err(de::Error::custom("it must be an enum with a variant for each name"))
    }

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TagError> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = TagError;
    type Variant = Content<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content<'de>), TagError> {
        let tag: StrDeserializer<'de, TagError> = self.tag.into_deserializer();
        Ok((seed.deserialize(tag)?, Content(self.content)))
    }
}

struct Content<'a>(&'a [u8]);

impl<'de> Content<'de> {
    fn read<T>(
        &self,
        read: impl FnOnce(&mut Json<'de>) -> Result<T, serde_json::Error>,
    ) -> Result<T, TagError> {
        // No body at all is what people send where there is nothing to say.
        let content = if self.0.is_empty() { b"{}" } else { self.0 };
        let mut json = Json::from_slice(content);
        let value = read(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|error| TagError::Content(error.to_string()))
    }
}

type Json<'a> = serde_json::Deserializer<serde_json::de::SliceRead<'a>>;

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = TagError;

    fn unit_variant(self) -> Result<(), TagError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, TagError> {
        self.read(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: de::Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, TagError> {
        self.read(|json| json.deserialize_seq(visitor))
    }

    fn struct_variant<V: de::Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TagError> {
        self.read(|json| json.deserialize_struct("", fields, visitor))
    }
}

impl de::Error for TagError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::Content(why.to_string())
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::Unknown(known)
    }
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(known) => write!(f, "known: {}", known.join(", ")),
            Self::Content(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for TagError {}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::{TagError, read, write};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Fact {
        #[serde(rename = "a.opened")]
        Opened {
            by: String,
            tags: Vec<u8>,
        },
        #[serde(rename = "a.\"odd\"")]
        Odd(u64),
        #[serde(rename = "a.closed")]
        Closed,
        Pair(u8, u8),
    }

    #[test]
    fn variants_come_back_from_their_name_and_content() {
        let opened = Fact::Opened { by: "x\"}".into(), tags: vec![1] };
        for (fact, tag, content) in [
            (opened, "a.opened", Some(r#"{"by":"x\"}","tags":[1]}"#)),
            (Fact::Odd(7), "a.\"odd\"", Some("7")),
            (Fact::Closed, "a.closed", None),
            (Fact::Pair(1, 2), "Pair", Some("[1,2]")),
        ] {
            let written = write(&fact).unwrap();
            assert_eq!(written, (tag.to_owned(), content.map(|text| text.as_bytes().to_vec())));
            let again: Fact = read(tag, content.unwrap_or_default().as_bytes()).unwrap();
            assert_eq!(again, fact);
        }
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let why = |tag, content: &str| match read::<Fact>(tag, content.as_bytes()) {
            Err(TagError::Content(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why("a.opened", ""), "missing field `by` at line 1 column 2");
        assert_eq!(why("Pair", "[1,2] 3"), "trailing characters at line 1 column 7");
        let unknown = read::<Fact>("b.opened", b"{}");
        assert!(matches!(unknown, Err(TagError::Unknown(known)) if known.len() == 4));
        assert!(read::<u8>("a", b"1").is_err());
        assert!(write(&7).is_err() && write(&[1]).is_err());
        assert_eq!(read::<Fact>("a.closed", b"{\"more\":1}").unwrap(), Fact::Closed);
    }
}
