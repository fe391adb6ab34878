//! Secret properties of the connector. The REST API of Kafka Connect shows a connector's
//! configuration to everybody who can reach it. A Connect that fanout runs therefore reads the
//! secrets from a file, and the configuration refers to that file.

use std::{collections::BTreeMap, fmt::Write as _};

use super::settings::Connector;
use crate::secret::is_secret;

impl Connector {
    /// Returns the operator's properties with a secret's name. Excludes references to another
    /// place, such as `${file:…}`.
    fn secrets(&self) -> impl Iterator<Item = (&String, &String)> {
        let properties = self.properties.iter();
        properties.filter(|(name, value)| is_secret(name) && !value.contains("${"))
    }

    /// Returns the secrets as lines of a Java properties file.
    #[must_use]
    pub fn secret_lines(&self) -> String {
        let mut lines = String::new();
        for (name, value) in self.secrets() {
            // Writing into a string cannot fail.
            let _ = writeln!(lines, "{}={}", key(name), escape_value(value));
        }
        lines
    }

    /// Returns references to that file by property: `${file:<file>:<key>}`.
    #[must_use]
    pub fn secret_references(&self, file: &str) -> BTreeMap<String, String> {
        let reference = |name: &String| format!("${{file:{file}:{}}}", key(name));
        self.secrets()
            .map(|(name, _)| (name.clone(), reference(name)))
            .collect()
    }
}

/// Returns the key of a property in the file, without characters that have a special meaning
/// there.
fn key(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let key = name
        .chars()
        .map(|letter| if is_plain(letter) { letter } else { '_' });
    format!("connector.{}", key.collect::<String>())
}

/// Returns a value escaped for a properties file.
fn escape_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '\\' => escaped.push_str(r"\\"),
            '\n' => escaped.push_str(r"\n"),
            '\r' => escaped.push_str(r"\r"),
            '\t' => escaped.push_str(r"\t"),
            '\u{c}' => escaped.push_str(r"\f"),
            // A leading blank would be skipped.
            ' ' if escaped.is_empty() => escaped.push_str(r"\ "),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn secret_properties_are_stored_in_a_file_and_referenced() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("database.ssl.passphrase", " can\\ary\n"),
            ("poll.interval.ms", "20"),
            ("database.password", "${env:ELSEWHERE}"),
        ] {
            let properties = &mut settings.connector.properties;
            properties.insert(name.to_owned(), value.to_owned());
        }
        let connector = &settings.connector;
        assert_eq!(
            connector.secret_lines(),
            "connector.database.ssl.passphrase=\\ can\\\\ary\\n\n"
        );
        let references: Vec<_> = connector
            .secret_references("/s.properties")
            .into_iter()
            .collect();
        let reference = "${file:/s.properties:connector.database.ssl.passphrase}";
        assert_eq!(
            references,
            [("database.ssl.passphrase".to_owned(), reference.to_owned())]
        );
    }
}
