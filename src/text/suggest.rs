//! Messages about unknown names: the known names, and the one that was probably meant.

/// Minimum likeness of two names, from 0 to 1, for one to be suggested in place of the other.
const MIN_LIKENESS: f64 = 0.75;

/// Returns the known name that is most like this one, if any is similar enough.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|other| (other, likeness(&name, &other.to_lowercase())))
        .filter(|(_, likeness)| *likeness >= MIN_LIKENESS)
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .map(|(other, _)| other)
}

/// Returns a message such as `unknown sink "htp", expected one of redis, clickhouse, http (did
/// you mean "http"?)`.
#[must_use]
pub fn unknown<S: AsRef<str>>(what: &str, name: &str, known: &[S]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let expected = match known.as_slice() {
        [] => ", there are none".to_owned(),
        known => format!(", expected one of {}", known.join(", ")),
    };
    let suggestion = did_you_mean(name, known);
    format!("unknown {what} \"{name}\"{expected}{suggestion}")
}

/// Returns ` (did you mean "http"?)`, or an empty text if no known name is similar.
#[must_use]
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(suggestion) => format!(" (did you mean \"{suggestion}\"?)"),
        None => String::new(),
    }
}

/// Returns the likeness of two names. Transposed letters count as one mistake, and the
/// beginning of a name counts more than its end.
fn likeness(left: &str, right: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(left, right).max(strsim::jaro_winkler(left, right) - 0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

    #[test]
    fn the_intended_name_is_suggested_for_a_misspelt_one() {
        for (name, suggestion) in [
            ("redsi", "redis"),
            ("Redis", "redis"),
            ("htp", "http"),
            ("clikhouse", "clickhouse"),
            ("click", "clickhouse"),
        ] {
            assert_eq!(nearest(name, SINKS), Some(suggestion), "{name}");
        }
    }

    #[test]
    fn nothing_is_suggested_for_a_dissimilar_name() {
        for name in ["", "bigquery", "s3", "x"] {
            assert_eq!(nearest(name, SINKS), None, "{name}");
        }
    }

    #[test]
    fn the_message_lists_the_known_names() {
        assert_eq!(
            unknown("sink", "htp", &SINKS),
            "unknown sink \"htp\", expected one of redis, clickhouse, http (did you mean \"http\"?)"
        );
        let none: [&str; 0] = [];
        assert_eq!(
            unknown("topic", "a", &none),
            "unknown topic \"a\", there are none"
        );
    }
}
