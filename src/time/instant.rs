//! Points in time as an operator writes them, and ages for display.
//!
//! A written time may be relative. It is resolved against a given time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use jiff::{SignedDuration, SpanRelativeTo};

use super::timestamp::{self, Rfc3339};
use crate::text::escape::excerpt;

const EARLIEST: &str = "earliest";

/// A time on the command line: `2026-01-02T03:04:05Z`, `2h`, `2h parse_ago`, `1d`, `earliest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSpec {
    /// The earliest available data.
    Earliest,
    /// Microseconds since the epoch.
    At(i64),
    /// Microseconds before the current time. Never negative.
    Ago(i64),
}

impl TimeSpec {
    /// Parses a time. A duration means that long ago; a day has 24 hours.
    ///
    /// # Errors
    /// If the text has none of the forms above.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case(EARLIEST) {
            return Ok(Self::Earliest);
        }
        if let Some(micros) = timestamp::parse(text) {
            return Ok(Self::At(micros));
        }
        if text.parse::<jiff::civil::DateTime>().is_ok() {
            return Err(TimeError::NoOffset(excerpt(text)));
        }
        parse_ago(text)
            .map(Self::Ago)
            .ok_or_else(|| TimeError::Unreadable(excerpt(text)))
    }

    /// Resolves the time against the current time, in microseconds since the epoch.
    #[must_use]
    pub fn resolve(self, now_us: i64) -> Resolved {
        match self {
            Self::Earliest => Resolved::Earliest,
            Self::At(micros) => Resolved::At(micros),
            Self::Ago(micros) => Resolved::At(now_us.saturating_sub(micros)),
        }
    }
}

/// Returns the microseconds of `2h`, `2h parse_ago` or `1d 12h`.
fn parse_ago(text: &str) -> Option<i64> {
    let duration = text.strip_suffix("ago").unwrap_or(text).trim_end();
    if duration.starts_with(['-', '+']) {
        return None;
    }
    let span = SpanParser::new().parse_span(duration).ok()?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    let micros = i64::try_from(length.as_micros()).ok()?;
    (micros >= 0).then_some(micros)
}

impl FromStr for TimeSpec {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        Self::parse(text)
    }
}

impl fmt::Display for TimeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str(EARLIEST),
            Self::At(micros) => Rfc3339(*micros).fmt(f),
            Self::Ago(micros) => write!(f, "{:#} ago", SignedDuration::from_micros(*micros)),
        }
    }
}

/// A time that no longer depends on the current time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// The earliest available data.
    Earliest,
    /// Microseconds since the epoch.
    At(i64),
}

impl Resolved {
    /// Returns the microseconds since the epoch, or `None` for the earliest.
    #[must_use]
    pub fn micros(self) -> Option<i64> {
        match self {
            Self::Earliest => None,
            Self::At(micros) => Some(micros),
        }
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str(EARLIEST),
            Self::At(micros) => Rfc3339(*micros).fmt(f),
        }
    }
}

/// Error while parsing a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("\"{0}\" has no offset from UTC: append Z or an offset such as +02:00")]
    NoOffset(String),
    #[error(
        "invalid time \"{0}\": expected RFC 3339 such as 2026-01-02T03:04:05Z, \
         a duration such as 2h or 90s, or earliest"
    )]
    Unreadable(String),
}

/// Displays an age in one whole unit, rounded down: `40 ms`, `3 s`, `2 min`, `5 h`, `9 d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(pub Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            seconds if seconds < 2 * MINUTE => write!(f, "{seconds} s"),
            seconds if seconds < 2 * HOUR => write!(f, "{} min", seconds / MINUTE),
            seconds if seconds < 2 * DAY => write!(f, "{} h", seconds / HOUR),
            seconds => write!(f, "{} d", seconds / DAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = timestamp::MICROS_PER_SECOND;

    #[test]
    fn every_form_of_a_time_is_parsed() {
        for (text, spec) in [
            ("earliest", TimeSpec::Earliest),
            ("1970-01-01T00:00:01Z", TimeSpec::At(SECOND)),
            ("1970-01-01T01:00:00.5+01:00", TimeSpec::At(SECOND / 2)),
            ("2h", TimeSpec::Ago(7_200 * SECOND)),
            ("2h ago", TimeSpec::Ago(7_200 * SECOND)),
            ("90s", TimeSpec::Ago(90 * SECOND)),
            ("1d", TimeSpec::Ago(86_400 * SECOND)),
            ("1d 12h ago", TimeSpec::Ago(129_600 * SECOND)),
            ("1 week", TimeSpec::Ago(604_800 * SECOND)),
            ("500ms", TimeSpec::Ago(SECOND / 2)),
        ] {
            assert_eq!(TimeSpec::parse(text), Ok(spec), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_an_error_with_the_expected_forms() {
        for text in [
            "",
            "2",
            "-2h",
            "+2h",
            "2h ago ago",
            "1mo",
            "1y",
            "soon",
            "ago",
            "2h\u{1b}",
        ] {
            let error = TimeSpec::parse(text).unwrap_err();
            assert!(matches!(error, TimeError::Unreadable(_)), "{text}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        let error = TimeSpec::parse("2026-01-02T03:04:05").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"2026-01-02T03:04:05\" has no offset from UTC: append Z or an offset such as +02:00"
        );
    }

    #[test]
    fn a_time_is_resolved_against_the_given_time() {
        let resolved = TimeSpec::Ago(90 * SECOND).resolve(100 * SECOND);
        assert_eq!(resolved, Resolved::At(10 * SECOND));
        assert_eq!(resolved.to_string(), "1970-01-01T00:00:10.000000Z");
        assert_eq!(TimeSpec::Earliest.resolve(0).to_string(), "earliest");
        assert_eq!(TimeSpec::Ago(90 * SECOND).to_string(), "1m 30s ago");
    }

    #[test]
    fn an_age_has_one_unit() {
        for (millis, shown) in [
            (40, "40 ms"),
            (3_999, "3 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (200_000_000, "2 d"),
        ] {
            assert_eq!(Age(Duration::from_millis(millis)).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn a_displayed_time_is_parsed(micros in 0..1_000_000_000_000_000_i64, is_absolute: bool) {
            let spec = if is_absolute { TimeSpec::At(micros) } else { TimeSpec::Ago(micros) };
            prop_assert_eq!(TimeSpec::parse(&spec.to_string()), Ok(spec));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in any::<String>()) {
            let _ = TimeSpec::parse(&text);
        }
    }
}
