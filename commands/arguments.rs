//! Kinds of argument that several commands take.

use std::time::Duration;

/// Longer than anybody waits, and short enough to be added to any moment.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Reads a duration above 0: `30s`, `1m 30s`, `250ms` or bare seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err("expected a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a duration that may be 0.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let duration = read(text)?;
    if duration > LONGEST {
        return Err("expected a duration of at most 100 years".to_owned());
    }
    Ok(duration)
}

fn read(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a duration such as `30s` or `5m`".to_owned())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Reads how many of something are wanted: at least 1, and as many as may be in
/// memory at once.
pub fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number
        .filter(|number| (1..=MOST).contains(number))
        .ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
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
    fn what_is_shown_is_bounded() {
        assert_eq!(up_to::<10>("1"), Ok(1));
        assert_eq!(up_to::<10>("10"), Ok(10));
        for text in ["0", "11", "-1", "1.5", "", "many"] {
            assert!(up_to::<10>(text).is_err(), "{text}");
        }
    }
}
