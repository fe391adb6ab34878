//! `env`: where the project's servers are, as variables that other programs
//! (and fanout itself) read.

use serde::Serialize;

use crate::{config::Settings, secret::SecretUrl};

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
}

/// The variables, with passwords only where `show_secrets` says so.
#[must_use]
pub fn variables(settings: &Settings, show_secrets: bool) -> Vec<Variable> {
    let url = |url: &SecretUrl| {
        if show_secrets {
            url.reveal().to_owned()
        } else {
            url.to_string()
        }
    };
    let all = [
        ("FANOUT_POSTGRES_URL", url(&settings.postgres.url)),
        ("FANOUT_KAFKA_BROKERS", settings.kafka.brokers.clone()),
        ("FANOUT_CONNECT_URL", url(&settings.connect.url)),
        ("FANOUT_REDIS_URL", url(&settings.redis.url)),
        ("FANOUT_CLICKHOUSE_URL", url(&settings.clickhouse.url)),
        ("FANOUT_EXTERNAL_URL", url(&settings.external.url)),
        ("FANOUT_HTTP_URL", url(&settings.http.url)),
    ];
    all.into_iter()
        .map(|(name, value)| Variable { name, value })
        .collect()
}

/// `export NAME='value'`, for a POSIX shell to read.
#[must_use]
pub fn export_line(variable: &Variable) -> String {
    format!("export {}={}", variable.name, quoted(&variable.value))
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_unless_asked_for() {
        let settings = Settings::default();
        let masked = variables(&settings, false);
        assert_eq!(
            export_line(&masked[0]),
            "export FANOUT_POSTGRES_URL='postgres://app:****@127.0.0.1:5432/app'"
        );
        let shown = variables(&settings, true);
        assert_eq!(shown[4].value, "http://app:app@127.0.0.1:8123");
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let text = "it's $HOME `x` \"y\" \\ \n z";
        let script = format!("printf %s {}", quoted(text));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        assert_eq!(output.expect("a shell").stdout, text.as_bytes());
    }
}
