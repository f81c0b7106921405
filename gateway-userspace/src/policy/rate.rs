//! How often something may be done: `60/min`.

use std::{fmt, num::NonZeroU32, time::Duration};

/// The most that a rate may count.
const COUNT_MAX: u32 = 1_000_000;

/// So many in a period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    count: NonZeroU32,
    per: Per,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Per {
    Second,
    Minute,
    Hour,
    Day,
}

/// A text that is no rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a number from 1 to {COUNT_MAX} per `s`, `min`, `h` or `day`")]
pub struct BadRate;

impl Rate {
    /// Parses a number, a slash and a unit.
    ///
    /// # Errors
    /// [`BadRate`] if it is something else.
    pub fn parse(text: &str) -> Result<Self, BadRate> {
        let (count, unit) = text.split_once('/').ok_or(BadRate)?;
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadRate);
        }
        let count: NonZeroU32 = count.parse().map_err(|_| BadRate)?;
        if count.get() > COUNT_MAX {
            return Err(BadRate);
        }
        let per = match unit {
            "s" => Per::Second,
            "min" => Per::Minute,
            "h" => Per::Hour,
            "day" => Per::Day,
            _other => return Err(BadRate),
        };
        Ok(Self { count, per })
    }

    /// How many pass at once.
    #[must_use]
    pub const fn count(self) -> NonZeroU32 {
        self.count
    }

    /// The time after which one more passes.
    #[must_use]
    pub fn interval(self) -> Duration {
        let period = match self.per {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 60 * 60,
            Per::Day => 24 * 60 * 60,
        };
        Duration::from_secs(period) / self.count.get()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Per::Second => "s",
            Per::Minute => "min",
            Per::Hour => "h",
            Per::Day => "day",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_what_is_none() {
        for (text, interval) in [
            ("60/min", Duration::from_secs(1)),
            ("1/s", Duration::from_secs(1)),
            ("1000000/s", Duration::from_micros(1)),
            ("24/day", Duration::from_secs(3600)),
            ("1/h", Duration::from_secs(3600)),
        ] {
            let rate = Rate::parse(text).expect(text);
            assert_eq!(rate.interval(), interval, "{text}");
            assert_eq!(rate.to_string(), text);
        }
        for text in [
            "",
            "60",
            "0/s",
            "1000001/s",
            "-1/s",
            "+1/s",
            "1/m",
            "1/S",
            "1 / s",
            "1/s/s",
        ] {
            assert_eq!(Rate::parse(text), Err(BadRate), "{text}");
        }
    }
}
