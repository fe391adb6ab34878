//! Finds the secret parts of a text: of a URL its password and most of its
//! query, of `host=db password=…` what has a secret's name.

use percent_encoding::percent_decode_str;

use super::{mask::MASK, name::is_secret};

/// Query parameters whose values are shown. A list of what is harmless rather
/// than of what is secret: nobody knows what every system calls its tokens.
const SHOWN_PARAMETERS: [&str; 20] = [
    "application_name",
    "channel_binding",
    "compress",
    "connect_timeout",
    "database",
    "db",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "port",
    "protocol",
    "sslmode",
    "sslnegotiation",
    "target_session_attrs",
    "user",
];

/// A text with its secret parts masked. Texts that hold none stay as they are.
#[must_use]
pub fn masked_text(text: &str) -> String {
    rewrite(text, &mut |_| {})
}

/// The secret parts of a text, in each form in which another program may repeat
/// them.
pub(super) fn secrets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    rewrite(text, &mut |secret| {
        let decoded = percent_decode_str(secret).decode_utf8_lossy().into_owned();
        let spaced = decoded.replace('+', " ");
        found.extend([secret.to_owned(), decoded, spaced]);
    });
    found
}

/// Masks each secret part and hands it to `found`.
fn rewrite(text: &str, found: &mut dyn FnMut(&str)) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => url(scheme, rest, found),
        None if is_path(text) => query(text, found),
        None => words(text, found),
    }
}

/// `/events?token=…`, the part of a URL behind its host.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.contains(['?', '#'])
}

fn url(scheme: &str, rest: &str, found: &mut dyn FnMut(&str)) -> String {
    // Parsers disagree about a password that is not encoded: it may hold any of
    // `@/?#`. All up to the last `@` may be one.
    let Some(end) = rest.rfind('@') else {
        return format!("{scheme}://{}", query(rest, found));
    };
    let (login, behind) = (&rest[..end], &rest[end..]);
    let login = match login.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            found(password);
            format!("{user}:{MASK}")
        }
        // A user without a password is a name for a database, and a token for
        // most HTTP services.
        _ if scheme.starts_with("http") => {
            found(login.trim_end_matches(':'));
            MASK.to_owned()
        }
        _ => login.to_owned(),
    };
    format!("{scheme}://{login}{}", query(behind, found))
}

/// Masks what stands behind `?` and `#`.
fn query(text: &str, found: &mut dyn FnMut(&str)) -> String {
    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment)),
        None => (text, None),
    };
    let mut masked = match text.split_once('?') {
        Some((place, query)) => {
            let parameters: Vec<String> = query
                .split('&')
                .map(|parameter| masked_parameter(parameter, found))
                .collect();
            format!("{place}?{}", parameters.join("&"))
        }
        None => text.to_owned(),
    };
    if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
        found(fragment);
        masked.push('#');
        masked.push_str(MASK);
    }
    masked
}

fn masked_parameter(parameter: &str, found: &mut dyn FnMut(&str)) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if SHOWN_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, value)) => {
            found(value);
            format!("{name}={MASK}")
        }
        None if parameter.is_empty() => String::new(),
        None => {
            found(parameter);
            MASK.to_owned()
        }
    }
}

/// `host=db password='a b' dbname=x`, as Postgres's own clients read it.
fn words(text: &str, found: &mut dyn FnMut(&str)) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        masked.push_str(before);
        masked.push('=');
        let blanks = after.len() - after.trim_start().len();
        let (blanks, value) = after.split_at(blanks);
        let (value, behind) = value.split_at(word_length(value));
        masked.push_str(blanks);
        let name = before.split_ascii_whitespace().last().unwrap_or_default();
        if is_secret(name) {
            found(value.trim_matches('\''));
            masked.push_str(MASK);
        } else {
            masked.push_str(value);
        }
        rest = behind;
    }
    masked.push_str(rest);
    masked
}

/// Bytes that a value takes, quoted or up to the next blank.
fn word_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(usize::from(quoted)) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            letter if !quoted && letter.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("http://app:canary@h:1", "http://app:****@h:1"),
            ("redis://:p%40w@h:1/0", "redis://:****@h:1/0"),
            ("http://app:a/b@c@h:no", "http://app:****@h:no"),
            ("http://app:a?b@h/x?c=d", "http://app:****@h/x?c=****"),
            ("http://app:a#b@h", "http://app:****@h"),
            ("https://canary@h/x", "https://****@h/x"),
            ("https://canary:@h/x", "https://****@h/x"),
            ("https://h/x?mail=a@b", "https://****@b"),
            ("postgres://app@h/d", "postgres://app@h/d"),
            (
                "postgres://app@h/d?password=canary&sslmode=off",
                "postgres://app@h/d?password=****&sslmode=off",
            ),
            (
                "https://h/x?api_key=canary&k=canary#canary",
                "https://h/x?api_key=****&k=****#****",
            ),
            ("https://h/x?canary", "https://h/x?****"),
            ("/events?sig=canary&db=1", "/events?sig=****&db=1"),
            (
                "host=db user=app password=canary dbname=x",
                "host=db user=app password=**** dbname=x",
            ),
            (r"password = 'ca \'nary' host=db", "password = **** host=db"),
            ("http://h:1/x", "http://h:1/x"),
            ("pg-engagement-cdc", "pg-engagement-cdc"),
            ("/events", "/events"),
        ] {
            assert_eq!(masked_text(text), shown);
        }
    }

    #[test]
    fn secrets_are_found_encoded_and_decoded() {
        let found = secrets("https://u:a%40b@h/x?token=c%2Fd");
        for secret in ["a%40b", "a@b", "c%2Fd", "c/d"] {
            assert!(found.iter().any(|one| one == secret), "{found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_password_shows_whatever_it_is(password in "[a-z@/?#:&=% ]{0,8}CANARY[a-z@/?#:&=% ]{0,8}") {
            for scheme in ["postgres", "http", "redis"] {
                let text = format!("{scheme}://app:{password}@db.internal:5432/shop?sslmode=off");
                let shown = masked_text(&text);
                prop_assert!(!shown.contains("CANARY"), "{}", shown);
            }
        }
    }
}
