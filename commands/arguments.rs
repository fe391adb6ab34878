//! Kinds of argument that several commands take.

use std::time::Duration;

/// Reads `30s`, `1m 30s`, `250ms` or bare seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a duration such as `30s` or `5m`".to_owned())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
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
        for text in ["", "-1s", "soon", "-3"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
