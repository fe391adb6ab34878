//! Points in time as microseconds since the epoch, parsed from and formatted as RFC 3339. Uses
//! no clock: [`super::instant`] handles relative times.

use std::fmt;
use std::ops::RangeInclusive;

pub const MICROS_PER_MILLI: i64 = 1_000;
pub const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// The range of ClickHouse's `DateTime64(6)`: from 1900-01-01 to the end of 2299-12-31, UTC.
pub const STORABLE: RangeInclusive<i64> = -2_208_988_800_000_000..=10_413_791_999_999_999;

/// Parses an RFC 3339 time with an offset. Digits beyond the microsecond are truncated towards
/// the past; Postgres has none. Returns `None` if the text is not a time or has no offset.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    parse_utc(text.as_bytes()).or_else(|| parse_any(text))
}

fn parse_any(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond().div_euclid(1_000)).ok()
}

/// Parses the format that the connector writes, `YYYY-MM-DDTHH:MM:SS[.f]Z` with up to nine
/// fraction digits. Written by hand because it runs for every record.
fn parse_utc(text: &[u8]) -> Option<i64> {
    let (date_and_time, rest) = text.split_first_chunk::<19>()?;
    let [
        y0,
        y1,
        y2,
        y3,
        b'-',
        mo0,
        mo1,
        b'-',
        d0,
        d1,
        b'T',
        h0,
        h1,
        b':',
        mi0,
        mi1,
        b':',
        s0,
        s1,
    ] = *date_and_time
    else {
        return None;
    };
    let year = two_digits(y0, y1)? * 100 + two_digits(y2, y3)?;
    let (month, day) = (two_digits(mo0, mo1)?, two_digits(d0, d1)?);
    let (hour, minute, second) = (
        two_digits(h0, h1)?,
        two_digits(mi0, mi1)?,
        two_digits(s0, s1)?,
    );
    let is_valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_valid {
        return None;
    }
    let seconds = ((hour * 60) + minute) * 60 + second;
    let total_seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + seconds;
    Some(total_seconds * MICROS_PER_SECOND + fraction(rest)?)
}

/// Returns the microseconds of `[.f]Z`.
fn fraction(rest: &[u8]) -> Option<i64> {
    const NANO_DIGITS: usize = 9;
    const MICRO_DIGITS: usize = 6;
    let digits = match rest {
        [b'Z'] => return Some(0),
        [b'.', digits @ .., b'Z'] if (1..=NANO_DIGITS).contains(&digits.len()) => digits,
        _ => return None,
    };
    let mut micros = 0;
    for index in 0..MICRO_DIGITS {
        micros = micros * 10 + digits.get(index).map_or(Some(0), |byte| digit(*byte))?;
    }
    let is_numeric = digits.iter().all(u8::is_ascii_digit);
    is_numeric.then_some(micros)
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Returns the number of days from the epoch to a date of the Gregorian calendar. Counts in
/// years that begin in March, so that the leap day is the last day.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_TO_EPOCH
}

/// Returns year, month and day: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_EPOCH;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Number of days in 400 years.
const DAYS_PER_ERA: i64 = 146_097;
/// Number of days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

/// Displays microseconds since the epoch as RFC 3339 in UTC with exactly six fraction digits:
/// `2026-01-02T03:04:05.000006Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rfc3339(pub i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let micros = self.0.rem_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute) = (second_of_day / 3_600, second_of_day / 60 % 60);
        let second = second_of_day % 60;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_storable_range_equals_that_of_clickhouse() {
        assert_eq!(parse("1900-01-01T00:00:00Z"), Some(*STORABLE.start()));
        assert_eq!(parse("2299-12-31T23:59:59.999999Z"), Some(*STORABLE.end()));
    }

    #[test]
    fn times_are_parsed_to_the_microsecond() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1970-01-01T00:00:00.1Z", 100_000),
            ("1970-01-01T00:00:00.1234567Z", 123_456),
            ("1969-12-31T23:59:59.9999999Z", -1),
            ("1970-01-01T02:00:00+02:00", 0),
            ("1970-01-01T00:00:00.000001999+00:00", 1),
            ("2024-02-29T12:00:00Z", 1_709_208_000_000_000),
        ] {
            assert_eq!(parse(text), Some(micros), "{text}");
        }
    }

    #[test]
    fn invalid_times_are_not_parsed() {
        for text in [
            "",
            "infinity",
            "-infinity",
            "+20000-01-01T00:00:00Z",
            "20000-01-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01T00:00:00.12a4Z",
            "2024-01-01",
            "1700000000",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_parser_agrees_with_jiff(
            year in 0_u32..10_000, month in 0_u32..14, day in 0_u32..33,
            hour in 0_u32..26, minute in 0_u32..62, second in 0_u32..60,
            fraction in "(\\.[0-9]{0,10})?",
        ) {
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
            );
            prop_assert_eq!(parse_utc(text.as_bytes()), parse_any(&text), "{}", text);
        }

        #[test]
        fn the_fast_parser_accepts_no_more_than_jiff(text in "[0-9T:.Z+-]{0,32}|\\PC{0,40}") {
            if let Some(micros) = parse_utc(text.as_bytes()) {
                prop_assert_eq!(Some(micros), parse_any(&text));
            }
        }

        #[test]
        fn a_formatted_time_is_parsed_to_the_same_time(micros in STORABLE) {
            let text = Rfc3339(micros).to_string();
            prop_assert_eq!(parse_utc(text.as_bytes()), Some(micros));
            prop_assert_eq!(parse_any(&text), Some(micros));
        }

        #[test]
        fn any_number_can_be_formatted(micros: i64) {
            prop_assert!(!Rfc3339(micros).to_string().is_empty());
        }
    }
}
