//! Secrets that must never be shown. The stack under test is configured with
//! some of them, so every test checks for leaks: all output of the binary is
//! searched.

/// Part of every secret that a test configures.
pub const MARK: &str = "canary7f3a";

/// The `fanout.yaml` of the stack. The connector ignores the property, and the
/// stub ignores the parameter.
pub const CONFIG: &str = r#"
external: {events_path: "/events?token=canary7f3a-token"}
connector: {properties: {fanout.canary.passphrase: "canary7f3a-passphrase"}}
services: {redis: {env: {CANARY_API_KEY: "canary7f3a-env"}}}
"#;

/// Panics if the text contains a secret.
#[track_caller]
pub fn assert_no_secret(text: &str) {
    if let Some(start) = text.find(MARK) {
        let line = text[start..].lines().next().unwrap_or_default();
        panic!("a secret is shown: {line}\n{text}");
    }
}
