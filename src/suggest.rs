//! What to say of a name that is not known: which there are, and which of them
//! was probably meant.

/// How alike two names have to be, from 0 to 1, for one to be suggested in
/// place of the other.
const ALIKE: f64 = 0.75;

/// The known name that is most like this one, where any is like it at all.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|other| (other, likeness(&name, &other.to_lowercase())))
        .filter(|(_, likeness)| *likeness >= ALIKE)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(other, _)| other)
}

/// `unknown sink "htp", expected one of redis, clickhouse, http (did you mean
/// "http"?)`.
#[must_use]
pub fn unknown<S: AsRef<str>>(what: &str, name: &str, known: &[S]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let expected = match known.as_slice() {
        [] => ", there is none".to_owned(),
        known => format!(", expected one of {}", known.join(", ")),
    };
    let meant = did_you_mean(name, known);
    format!("unknown {what} \"{name}\"{expected}{meant}")
}

/// ` (did you mean "http"?)`, or nothing where no known name is like this one.
#[must_use]
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(meant) => format!(" (did you mean \"{meant}\"?)"),
        None => String::new(),
    }
}

/// Transposed letters count as one mistake; the beginning of a name counts
/// more than its end.
fn likeness(one: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(one, other).max(strsim::jaro_winkler(one, other) - 0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

    #[test]
    fn a_misspelt_name_suggests_the_one_that_was_meant() {
        for (name, meant) in [
            ("redsi", "redis"),
            ("Redis", "redis"),
            ("htp", "http"),
            ("clikhouse", "clickhouse"),
            ("click", "clickhouse"),
        ] {
            assert_eq!(nearest(name, SINKS), Some(meant), "{name}");
        }
    }

    #[test]
    fn a_name_like_no_other_suggests_nothing() {
        for name in ["", "bigquery", "s3", "x"] {
            assert_eq!(nearest(name, SINKS), None, "{name}");
        }
    }

    #[test]
    fn the_message_lists_what_there_is() {
        assert_eq!(
            unknown("sink", "htp", &SINKS),
            "unknown sink \"htp\", expected one of redis, clickhouse, http (did you mean \"http\"?)"
        );
        let none: [&str; 0] = [];
        assert_eq!(
            unknown("topic", "a", &none),
            "unknown topic \"a\", there is none"
        );
    }
}
