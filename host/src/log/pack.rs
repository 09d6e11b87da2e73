//! MessagePack, as much of it as record bodies need.
//!
//! Written by hand and not derived, because the grammar must allow what derived decoders refuse:
//! arrays that a newer version made longer. Rule: reading never panics and never allocates; every
//! length is checked against the bytes that are there.

/// Why bytes are not what the grammar says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The bytes end inside a value.
    #[error("ends inside a value")]
    Short,
    /// Another type of value was due.
    #[error("has byte {found:#04x} where {wanted} was due")]
    Type {
        /// What the grammar says.
        wanted: &'static str,
        /// The type byte found.
        found: u8,
    },
    /// A text is not UTF-8.
    #[error("has a text that is not UTF-8")]
    Utf8,
    /// A number does not fit the field.
    #[error("has a number too large for its field")]
    Range,
    /// Values are nested deeper than any grammar of ours.
    #[error("is nested too deeply")]
    Depth,
}

const NIL: u8 = 0xc0;
const NESTING_MAX: u8 = 16;

/// Appends nil.
pub fn put_nil(out: &mut Vec<u8>) {
    out.push(NIL);
}

/// Appends an unsigned number in its shortest form.
#[allow(clippy::cast_possible_truncation, reason = "each branch has checked that the value fits")]
pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else if value <= u64::from(u8::MAX) {
        out.extend_from_slice(&[0xcc, value as u8]);
    } else if value <= u64::from(u16::MAX) {
        out.push(0xcd);
        out.extend_from_slice(&(value as u16).to_be_bytes());
    } else if value <= u64::from(u32::MAX) {
        out.push(0xce);
        out.extend_from_slice(&(value as u32).to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends a text. Callers keep texts far below 4 GiB (`limits.rs`).
#[allow(clippy::cast_possible_truncation, reason = "texts are bounded by `limits`")]
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    if len < 32 {
        out.push(0xa0 | len as u8);
    } else if len <= usize::from(u8::MAX) {
        out.extend_from_slice(&[0xd9, len as u8]);
    } else if len <= usize::from(u16::MAX) {
        out.push(0xda);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(0xdb);
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a digest, as bytes.
pub fn put_digest(out: &mut Vec<u8>, digest: &[u8; 32]) {
    out.extend_from_slice(&[0xc4, 32]);
    out.extend_from_slice(digest);
}

/// Opens an array of `len` values.
#[allow(clippy::cast_possible_truncation, reason = "arrays are bounded by `limits`")]
pub fn put_array(out: &mut Vec<u8>, len: usize) {
    if len < 16 {
        out.push(0x90 | len as u8);
    } else if len <= usize::from(u16::MAX) {
        out.push(0xdc);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(0xdd);
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
}

/// A cursor over MessagePack bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PackError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(PackError::Short)?;
        self.rest = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, PackError> {
        let (first, tail) = self.rest.split_first().ok_or(PackError::Short)?;
        self.rest = tail;
        Ok(*first)
    }

    fn big_endian(&mut self, len: usize) -> Result<u64, PackError> {
        Ok(self.take(len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self, len: usize) -> Result<usize, PackError> {
        usize::try_from(self.big_endian(len)?).map_err(|_| PackError::Range)
    }

    /// Passes over nil, if nil is next.
    pub fn nil(&mut self) -> bool {
        match self.rest.split_first() {
            Some((&NIL, tail)) => {
                self.rest = tail;
                true
            }
            _ => false,
        }
    }

    /// An unsigned number.
    ///
    /// # Errors
    /// Where something else, or nothing, is next.
    pub fn uint(&mut self) -> Result<u64, PackError> {
        match self.byte()? {
            small @ 0..=0x7f => Ok(u64::from(small)),
            0xcc => self.big_endian(1),
            0xcd => self.big_endian(2),
            0xce => self.big_endian(4),
            0xcf => self.big_endian(8),
            found => Err(PackError::Type { wanted: "an unsigned number", found }),
        }
    }

    /// An unsigned number that fits `T`.
    ///
    /// # Errors
    /// As [`Self::uint`], and where it does not fit.
    pub fn uint_as<T: TryFrom<u64>>(&mut self) -> Result<T, PackError> {
        T::try_from(self.uint()?).map_err(|_| PackError::Range)
    }

    /// A text.
    ///
    /// # Errors
    /// Where something else, or nothing, is next, or it is not UTF-8.
    pub fn str(&mut self) -> Result<&'a str, PackError> {
        let len = match self.byte()? {
            short @ 0xa0..=0xbf => usize::from(short & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            found => return Err(PackError::Type { wanted: "a text", found }),
        };
        std::str::from_utf8(self.take(len)?).map_err(|_| PackError::Utf8)
    }

    /// Bytes.
    ///
    /// # Errors
    /// Where something else, or nothing, is next.
    pub fn bin(&mut self) -> Result<&'a [u8], PackError> {
        let len = match self.byte()? {
            0xc4 => self.length(1)?,
            0xc5 => self.length(2)?,
            0xc6 => self.length(4)?,
            found => return Err(PackError::Type { wanted: "bytes", found }),
        };
        self.take(len)
    }

    /// The head of an array: how many values follow. Not more than there are bytes left.
    ///
    /// # Errors
    /// Where something else, or nothing, is next.
    pub fn array(&mut self) -> Result<usize, PackError> {
        let len = match self.byte()? {
            short @ 0x90..=0x9f => usize::from(short & 0x0f),
            0xdc => self.length(2)?,
            0xdd => self.length(4)?,
            found => return Err(PackError::Type { wanted: "an array", found }),
        };
        if len > self.rest.len() { Err(PackError::Short) } else { Ok(len) }
    }

    /// Passes over one value of any type.
    ///
    /// # Errors
    /// Where the bytes are no MessagePack value.
    pub fn skip(&mut self) -> Result<(), PackError> {
        self.skip_nested(0)
    }

    fn skip_nested(&mut self, depth: u8) -> Result<(), PackError> {
        if depth > NESTING_MAX {
            return Err(PackError::Depth);
        }
        let mut values = 0;
        let bytes = match self.byte()? {
            0..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
            map @ 0x80..=0x8f => {
                values = usize::from(map & 0x0f) * 2;
                0
            }
            array @ 0x90..=0x9f => {
                values = usize::from(array & 0x0f);
                0
            }
            text @ 0xa0..=0xbf => usize::from(text & 0x1f),
            0xc4 | 0xd9 => self.length(1)?,
            0xc5 | 0xda => self.length(2)?,
            0xc6 | 0xdb => self.length(4)?,
            0xc7 => self.length(1)?.saturating_add(1),
            0xc8 => self.length(2)?.saturating_add(1),
            0xc9 => self.length(4)?.saturating_add(1),
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 | 0xd4 => 2,
            0xd5 => 3,
            0xca | 0xce | 0xd2 => 4,
            0xd6 => 5,
            0xcb | 0xcf | 0xd3 => 8,
            0xd7 => 9,
            0xd8 => 17,
            0xdc => {
                values = self.length(2)?;
                0
            }
            0xdd => {
                values = self.length(4)?;
                0
            }
            0xde => {
                values = self.length(2)?.saturating_mul(2);
                0
            }
            0xdf => {
                values = self.length(4)?.saturating_mul(2);
                0
            }
            found => return Err(PackError::Type { wanted: "a value", found }),
        };
        self.take(bytes)?;
        if values > self.rest.len() {
            return Err(PackError::Short);
        }
        (0..values).try_for_each(|_| self.skip_nested(depth + 1))
    }
}

/// An array being read field by field: fields beyond its end read as absent, fields beyond what
/// this version knows are passed over.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Fields<'a> {
    /// Opens the array that is next in `reader`.
    ///
    /// # Errors
    /// Where no array is next.
    pub fn open(mut reader: Reader<'a>) -> Result<Self, PackError> {
        let left = reader.array()?;
        Ok(Self { reader, left })
    }

    /// Reads the next field with `read`; none where the array ended or the field is nil.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, PackError>,
    ) -> Result<Option<T>, PackError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        if self.reader.nil() { Ok(None) } else { read(&mut self.reader).map(Some) }
    }

    /// Passes over so many fields.
    ///
    /// # Errors
    /// Where they are not MessagePack.
    pub fn pass(&mut self, count: usize) -> Result<(), PackError> {
        let count = count.min(self.left);
        self.left -= count;
        (0..count).try_for_each(|_| self.reader.skip())
    }

    /// Passes over the fields that are left, and gives the reader behind the array.
    ///
    /// # Errors
    /// Where they are not MessagePack.
    pub fn close(mut self) -> Result<Reader<'a>, PackError> {
        for _ in 0..self.left {
            self.reader.skip()?;
        }
        Ok(self.reader)
    }
}
