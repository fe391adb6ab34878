//! Secrets that must not be seen anywhere. The stack under test is configured
//! with some, so that each test watches over them: all that the binary says is
//! searched.

/// In every secret that a test configures.
pub const MARK: &str = "canary7f3a";

/// The stack's own `fanout.yaml`. The connector ignores the property, and the
/// stub the parameter.
pub const CONFIG: &str = r#"
external: {events_path: "/events?token=canary7f3a-token"}
connector: {properties: {fanout.canary.passphrase: "canary7f3a-passphrase"}}
services: {redis: {env: {CANARY_API_KEY: "canary7f3a-env"}}}
"#;

/// Fails where a secret is in a text.
#[track_caller]
pub fn is_silent(text: &str) {
    if let Some(at) = text.find(MARK) {
        let line = text[at..].lines().next().unwrap_or_default();
        panic!("a secret shows: {line}\n{text}");
    }
}
