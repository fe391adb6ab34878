//! The names that denote secrets.

/// A name that contains one of these parts denotes a secret. Punctuation and case are ignored.
const PARTS: [&str; 21] = [
    "accesskey",
    "apikey",
    "authorization",
    "bearer",
    "connectionstring",
    "cookie",
    "credential",
    "encryptionkey",
    "jaasconfig",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pgpass",
    "privatekey",
    "pwd",
    "secret",
    "signature",
    "signingkey",
    "token",
    // Kafka's `basic.auth.user.info` holds `user:password`.
    "userinfo",
];

/// A name that ends with one of these words denotes a secret.
const LAST_WORDS: [&str; 10] = [
    "auth", "dsn", "jwt", "key", "otp", "pass", "pin", "pw", "sas", "sig",
];

/// Returns true if a variable, property or parameter with this name holds a secret. Masks too
/// much rather than too little: `transforms.route.key` counts as a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    PARTS.iter().any(|part| plain.contains(part))
        || LAST_WORDS.contains(&last_word(name).to_ascii_lowercase().as_str())
}

/// Returns the last word of a name: `AWS_KEY` → `KEY`, `sshKey` → `Key`, `key` → `key`.
fn last_word(name: &str) -> &str {
    let name = name.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let mut start = 0;
    let mut previous = ' ';
    for (index, letter) in name.char_indices() {
        if !letter.is_ascii_alphanumeric() {
            start = index + letter.len_utf8();
        } else if letter.is_ascii_uppercase() && previous.is_ascii_lowercase() {
            start = index;
        }
        previous = letter;
    }
    &name[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_by_their_names() {
        for name in [
            "POSTGRES_PASSWORD",
            "database.password",
            "ssl.key.passphrase",
            "PGPASS",
            "mysql_pwd",
            "api_key",
            "api-key",
            "apiKey",
            "X-Api-Key",
            "AWS_SECRET_ACCESS_KEY",
            "aws_access_key_id",
            "GOOGLE_CREDENTIALS",
            "credential",
            "access_token",
            "tokens",
            "client.secret",
            "sasl.jaas.config",
            "basic.auth.user.info",
            "Authorization",
            "Set-Cookie",
            "sig",
            "key",
            "sshKey",
            "ssl.keystore.key",
            "privateKeyPem",
            "X-Amz-Signature",
            "SENTRY_DSN",
        ] {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn other_names_are_not_secrets() {
        for name in [
            "",
            "TZ",
            "key.converter",
            "message.key.columns",
            "database.user",
            "slot.name",
            "sslmode",
            "POSTGRES_HOST_AUTH_METHOD",
            "compass",
            "monkey",
            "spin",
            "url",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
