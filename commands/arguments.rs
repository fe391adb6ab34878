//! Argument parsers that several commands use.

use std::time::Duration;

/// Longest accepted duration: short enough to be added to any point in time
/// without an overflow.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Parses a duration above 0: `30s`, `1m 30s`, `250ms` or plain seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err("expected a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Parses a duration that may be 0.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration > MAX_DURATION {
        return Err("expected a duration of at most 100 years".to_owned());
    }
    Ok(duration)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a duration such as `30s` or `5m`".to_owned())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Parses a count from 1 to `MAX`, the number of items that may be in memory at
/// the same time.
pub fn up_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number
        .filter(|number| (1..=MAX).contains(number))
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_duration_notations_are_accepted() {
        for (text, millis) in [
            ("30s", 30_000),
            ("250ms", 250),
            ("1m 30s", 90_000),
            ("2", 2_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "", "-1s", "soon", "-3", "0", "0s", "0ms", "nan", "inf", "1e300", "101y",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn counts_are_bounded() {
        assert_eq!(up_to::<10>("1"), Ok(1));
        assert_eq!(up_to::<10>("10"), Ok(10));
        for text in ["0", "11", "-1", "1.5", "", "many"] {
            assert!(up_to::<10>(text).is_err(), "{text}");
        }
    }
}
