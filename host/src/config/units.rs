//! Quantities as people write them: `64MiB`, `2s`, `50% / 1m`.
//!
//! A quantity keeps the unit it was written in, so that it goes back out as the text it came from.
//! Comparisons are by value: `60s` equals `1m`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `64MiB`, `512KiB`, `4096B`.
#[derive(Debug, Clone, Copy)]
pub struct ByteSize {
    count: u64,
    unit: ByteUnit,
}

/// A length of time: `100ms`, `2s`, `15m`, `24h`, `7d`.
#[derive(Debug, Clone, Copy)]
pub struct TimeSpan {
    count: u64,
    unit: TimeUnit,
}

/// A share of failures over a length of time: `50% / 1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureShare {
    /// 1 to 100.
    pub percent: u8,
    /// Over how long.
    pub window: TimeSpan,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not a whole number followed by a unit of bytes.
    #[error("a whole number with a unit of B, KiB, MiB, GiB or TiB")]
    ByteSize,
    /// Not a whole number followed by a unit of time.
    #[error("a whole number with a unit of ms, s, m, h or d")]
    TimeSpan,
    /// Not a percentage over a time.
    #[error("a percentage from 1 to 100 over a time, such as `50% / 1m`")]
    FailureShare,
}

#[derive(Debug, Clone, Copy)]
enum ByteUnit {
    B,
    KiB,
    MiB,
    GiB,
    TiB,
}

#[derive(Debug, Clone, Copy)]
enum TimeUnit {
    Ms,
    S,
    M,
    H,
    D,
}

impl ByteUnit {
    const ALL: [Self; 5] = [Self::B, Self::KiB, Self::MiB, Self::GiB, Self::TiB];

    const fn name(self) -> &'static str {
        match self {
            Self::B => "B",
            Self::KiB => "KiB",
            Self::MiB => "MiB",
            Self::GiB => "GiB",
            Self::TiB => "TiB",
        }
    }

    const fn bytes(self) -> u64 {
        match self {
            Self::B => 1,
            Self::KiB => 1 << 10,
            Self::MiB => 1 << 20,
            Self::GiB => 1 << 30,
            Self::TiB => 1 << 40,
        }
    }
}

impl TimeUnit {
    const ALL: [Self; 5] = [Self::Ms, Self::S, Self::M, Self::H, Self::D];

    const fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::S => "s",
            Self::M => "m",
            Self::H => "h",
            Self::D => "d",
        }
    }

    const fn ms(self) -> u64 {
        match self {
            Self::Ms => 1,
            Self::S => 1000,
            Self::M => 60 * 1000,
            Self::H => 60 * 60 * 1000,
            Self::D => 24 * 60 * 60 * 1000,
        }
    }
}

impl ByteSize {
    /// So many KiB.
    #[must_use]
    pub const fn kib(count: u32) -> Self {
        Self { count: count as u64, unit: ByteUnit::KiB }
    }

    /// So many MiB.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self { count: count as u64, unit: ByteUnit::MiB }
    }

    /// So many GiB.
    #[must_use]
    pub const fn gib(count: u32) -> Self {
        Self { count: count as u64, unit: ByteUnit::GiB }
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count.saturating_mul(self.unit.bytes())
    }

    /// The number of bytes, or as many as this machine can address.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.bytes()).unwrap_or(usize::MAX)
    }
}

impl TimeSpan {
    /// So many milliseconds.
    #[must_use]
    pub const fn from_ms(count: u32) -> Self {
        Self { count: count as u64, unit: TimeUnit::Ms }
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(count: u32) -> Self {
        Self { count: count as u64, unit: TimeUnit::S }
    }

    /// So many minutes.
    #[must_use]
    pub const fn from_minutes(count: u32) -> Self {
        Self { count: count as u64, unit: TimeUnit::M }
    }

    /// So many hours.
    #[must_use]
    pub const fn from_hours(count: u32) -> Self {
        Self { count: count as u64, unit: TimeUnit::H }
    }

    /// So many days.
    #[must_use]
    pub const fn from_days(count: u32) -> Self {
        Self { count: count as u64, unit: TimeUnit::D }
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.count.saturating_mul(self.unit.ms())
    }

    /// The same as the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.ms())
    }
}

/// Splits `64MiB` into 64 and `MiB`. A sign, a fraction or an exponent is not a whole number.
fn split_quantity(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at_checked(digits)?;
    Some((count.parse().ok()?, unit.trim_start()))
}

impl FromStr for ByteSize {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let (count, name) = split_quantity(text).ok_or(InvalidQuantity::ByteSize)?;
        let unit = ByteUnit::ALL.into_iter().find(|unit| unit.name() == name);
        let unit = unit.ok_or(InvalidQuantity::ByteSize)?;
        count.checked_mul(unit.bytes()).ok_or(InvalidQuantity::ByteSize)?;
        Ok(Self { count, unit })
    }
}

impl FromStr for TimeSpan {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let (count, name) = split_quantity(text).ok_or(InvalidQuantity::TimeSpan)?;
        let unit = TimeUnit::ALL.into_iter().find(|unit| unit.name() == name);
        let unit = unit.ok_or(InvalidQuantity::TimeSpan)?;
        count.checked_mul(unit.ms()).ok_or(InvalidQuantity::TimeSpan)?;
        Ok(Self { count, unit })
    }
}

impl FromStr for FailureShare {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let (share, window) = text.split_once('/').ok_or(InvalidQuantity::FailureShare)?;
        let percent = share.trim().strip_suffix('%').ok_or(InvalidQuantity::FailureShare)?;
        let percent: u8 = percent.parse().map_err(|_| InvalidQuantity::FailureShare)?;
        let window: TimeSpan = window.parse().map_err(|_| InvalidQuantity::FailureShare)?;
        if !(1..=100).contains(&percent) || window.ms() == 0 {
            return Err(InvalidQuantity::FailureShare);
        }
        Ok(Self { percent, window })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit.name())
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit.name())
    }
}

impl fmt::Display for FailureShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}% / {}", self.percent, self.window)
    }
}

impl PartialEq for ByteSize {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for ByteSize {}

impl PartialOrd for ByteSize {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByteSize {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(&other.bytes())
    }
}

impl PartialEq for TimeSpan {
    fn eq(&self, other: &Self) -> bool {
        self.ms() == other.ms()
    }
}

impl Eq for TimeSpan {}

impl PartialOrd for TimeSpan {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TimeSpan {
    fn cmp(&self, other: &Self) -> Ordering {
        self.ms().cmp(&other.ms())
    }
}

/// In text formats a quantity is its text.
macro_rules! serde_as_text {
    ($($quantity:ty),*) => {$(
        impl Serialize for $quantity {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(ByteSize, TimeSpan, FailureShare);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_go_back_out_as_they_came_in() {
        for text in ["0B", "64MiB", "1024KiB", "1GiB", "3TiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["100ms", "2s", "60s", "15m", "24h", "7d"] {
            assert_eq!(text.parse::<TimeSpan>().unwrap().to_string(), text);
        }
        let share: FailureShare = "50%/ 1m".parse().unwrap();
        assert_eq!(share.to_string(), "50% / 1m");
    }

    #[test]
    fn quantities_compare_by_value() {
        assert_eq!("1024KiB".parse::<ByteSize>(), Ok(ByteSize::mib(1)));
        assert_eq!("60s".parse::<TimeSpan>(), Ok(TimeSpan::from_minutes(1)));
        assert!(ByteSize::kib(1025) > ByteSize::mib(1));
        assert_eq!(ByteSize::mib(64).bytes(), 64 * 1024 * 1024);
        assert_eq!(TimeSpan::from_minutes(15).duration(), Duration::from_secs(900));
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "64", "MiB", "64mb", "64MB", "-1MiB", "1.5GiB", "64MiBs", "99999999TiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(InvalidQuantity::ByteSize), "{text}");
        }
        for text in ["", "2", "s", "2 sec", "-1s", "1.5s", "1h30m", "18446744073709551615d"] {
            assert_eq!(text.parse::<TimeSpan>(), Err(InvalidQuantity::TimeSpan), "{text}");
        }
        for text in ["50%", "50 / 1m", "0% / 1m", "101% / 1m", "50% / 0s", "50% / soon", "% / 1m"] {
            assert_eq!(text.parse::<FailureShare>(), Err(InvalidQuantity::FailureShare), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<TimeSpan>();
            let _ = text.parse::<FailureShare>();
        }
    }
}
