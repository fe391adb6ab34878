//! Finds the secret parts of a text: the password and most of the query of a URL, and values
//! with a secret's name in `host=db password=…`.

use percent_encoding::percent_decode_str;

use super::{mask::MASK, name::is_secret};

/// Query parameters whose values are shown. A list of harmless names rather than of secret
/// ones, because the names of tokens in other systems are unknown.
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

/// Returns the text with its secret parts masked. A text without secrets is unchanged.
#[must_use]
pub fn masked_text(text: &str) -> String {
    rewrite(text, &mut |_| {})
}

/// Returns the secret parts of a text, in every form in which another program may repeat them.
pub(super) fn secrets(text: &str) -> Vec<String> {
    let mut forms = Vec::new();
    rewrite(text, &mut |secret| {
        let decoded = percent_decode_str(secret).decode_utf8_lossy().into_owned();
        let spaced = decoded.replace('+', " ");
        forms.extend([secret.to_owned(), decoded, spaced]);
    });
    forms
}

/// Masks each secret part and passes it to `on_secret`.
fn rewrite(text: &str, on_secret: &mut dyn FnMut(&str)) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => mask_url(scheme, rest, on_secret),
        None if is_path(text) => mask_query(text, on_secret),
        None => mask_words(text, on_secret),
    }
}

/// Returns true for the part of a URL after its host, such as `/events?token=…`.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.contains(['?', '#'])
}

fn mask_url(scheme: &str, rest: &str, on_secret: &mut dyn FnMut(&str)) -> String {
    // Parsers disagree about an unencoded password, which may contain any of `@/?#`. Everything
    // up to the last `@` may belong to it.
    let Some(end) = rest.rfind('@') else {
        return format!("{scheme}://{}", mask_query(rest, on_secret));
    };
    let (login, tail) = (&rest[..end], &rest[end..]);
    let login = match login.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            on_secret(password);
            format!("{user}:{MASK}")
        }
        // A user without a password is a user name for databases, but a token for most HTTP
        // services.
        _ if scheme.starts_with("http") => {
            on_secret(login.trim_end_matches(':'));
            MASK.to_owned()
        }
        _ => login.to_owned(),
    };
    format!("{scheme}://{login}{}", mask_query(tail, on_secret))
}

/// Masks the parts after `?` and `#`.
fn mask_query(text: &str, on_secret: &mut dyn FnMut(&str)) -> String {
    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment)),
        None => (text, None),
    };
    let mut masked = match text.split_once('?') {
        Some((path, query)) => {
            let parameters: Vec<String> = query
                .split('&')
                .map(|parameter| mask_parameter(parameter, on_secret))
                .collect();
            format!("{path}?{}", parameters.join("&"))
        }
        None => text.to_owned(),
    };
    if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
        on_secret(fragment);
        masked.push('#');
        masked.push_str(MASK);
    }
    masked
}

fn mask_parameter(parameter: &str, on_secret: &mut dyn FnMut(&str)) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if SHOWN_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, value)) => {
            on_secret(value);
            format!("{name}={MASK}")
        }
        None if parameter.is_empty() => String::new(),
        None => {
            on_secret(parameter);
            MASK.to_owned()
        }
    }
}

/// Masks `host=db password='a b' dbname=x`, parsed like Postgres's own clients do.
fn mask_words(text: &str, on_secret: &mut dyn FnMut(&str)) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        masked.push_str(before);
        masked.push('=');
        let blanks = after.len() - after.trim_start().len();
        let (blanks, value) = after.split_at(blanks);
        let (value, tail) = value.split_at(word_length(value));
        masked.push_str(blanks);
        let name = before.split_ascii_whitespace().last().unwrap_or_default();
        if is_secret(name) {
            on_secret(value.trim_matches('\''));
            masked.push_str(MASK);
        } else {
            masked.push_str(value);
        }
        rest = tail;
    }
    masked.push_str(rest);
    masked
}

/// Returns the length of a value in bytes: quoted, or up to the next blank.
fn word_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (index, letter) in text.char_indices().skip(usize::from(quoted)) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return index + 1,
            letter if !quoted && letter.is_whitespace() => return index,
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
    fn secrets_are_masked_at_every_position() {
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
        let forms = secrets("https://u:a%40b@h/x?token=c%2Fd");
        for secret in ["a%40b", "a@b", "c%2Fd", "c/d"] {
            assert!(forms.iter().any(|form| form == secret), "{forms:?}");
        }
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[a-z@/?#:&=% ]{0,8}CANARY[a-z@/?#:&=% ]{0,8}") {
            for scheme in ["postgres", "http", "redis"] {
                let text = format!("{scheme}://app:{password}@db.internal:5432/shop?sslmode=off");
                let shown = masked_text(&text);
                prop_assert!(!shown.contains("CANARY"), "{}", shown);
            }
        }
    }
}
