//! The body of an event for the external system, and the key under which that system accepts it
//! once.
//!
//! Both outlive a run: a body that is sent again after a crash, by a resend or by a replay must
//! be identical byte for byte. The body is therefore written by hand rather than by a library
//! whose output may change, and golden tests pin it. A change of the form requires a new
//! [`FORMAT`].

use std::fmt::Write as _;

use uuid::Uuid;

use crate::{debezium::Engagement, time::timestamp::Rfc3339};

/// Version of the form of body and key.
pub const FORMAT: u8 = 1;

/// The UUID namespace of every idempotency key.
pub const NAMESPACE: Uuid = Uuid::from_u128(0xfab1_9d6e_b09f_41f7_bfb5_60d0_65a7_4b1d);

/// Returns the body of an event: one JSON object without white space, with the eight columns in
/// the table's order. Missing values are null. The time is RFC 3339 in UTC with six decimal
/// digits; `raw_payload` is a string.
#[must_use]
pub fn body(event: &Engagement<'_>) -> Vec<u8> {
    let mut body = String::with_capacity(256);
    write_body(event, &mut body);
    body.into_bytes()
}

/// Appends the body to `out`.
pub fn write_body(event: &Engagement<'_>, out: &mut String) {
    let payload = event.raw_payload.as_deref();
    out.reserve(256 + payload.map_or(0, str::len));
    out.push_str("{\"id\":");
    push_display(out, event.id);
    out.push_str(",\"content_id\":");
    push_quoted(out, event.content_id);
    out.push_str(",\"user_id\":");
    push_quoted(out, event.user_id);
    out.push_str(",\"event_type\":");
    push_text(out, event.event_type.as_deref());
    out.push_str(",\"event_ts\":");
    push_quoted(out, Some(Rfc3339(event.event_ts)));
    out.push_str(",\"duration_ms\":");
    match event.duration_ms {
        Some(duration) => push_display(out, duration),
        None => out.push_str("null"),
    }
    out.push_str(",\"device\":");
    push_text(out, event.device.as_deref());
    out.push_str(",\"raw_payload\":");
    push_text(out, payload);
    out.push('}');
}

/// Returns the key of a body: the UUID version 5, in [`NAMESPACE`], of `fanout/<format>`, the
/// table's qualified name and the body, joined by line feeds.
#[must_use]
pub fn idempotency_key(table: &str, body: &[u8]) -> Uuid {
    let mut name = Vec::with_capacity(16 + table.len() + body.len());
    name.extend_from_slice(format!("fanout/{FORMAT}\n{table}\n").as_bytes());
    name.extend_from_slice(body);
    Uuid::new_v5(&NAMESPACE, &name)
}

fn push_display(out: &mut String, value: impl std::fmt::Display) {
    // Writing into a string cannot fail.
    let _ = write!(out, "{value}");
}

fn push_quoted(out: &mut String, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => {
            out.push('"');
            push_display(out, value);
            out.push('"');
        }
        None => out.push_str("null"),
    }
}

/// Appends a JSON string. Only the quote, the backslash and C0 controls are escaped.
fn push_text(out: &mut String, text: Option<&str>) {
    let Some(text) = text else {
        out.push_str("null");
        return;
    };
    out.push('"');
    let mut rest = text;
    while let Some(index) = rest.bytes().position(needs_escape) {
        // The byte is ASCII, so it is on a character boundary.
        let (plain, tail) = rest.split_at(index);
        out.push_str(plain);
        push_escaped(out, tail.as_bytes()[0]);
        rest = &tail[1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn push_escaped(out: &mut String, byte: u8) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        0x08 => out.push_str("\\b"),
        0x0c => out.push_str("\\f"),
        other => push_display(out, format_args!("\\u{other:04x}")),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn full() -> Engagement<'static> {
        Engagement {
            id: 42,
            content_id: Some(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
            user_id: Some(Uuid::from_u128(u128::MAX)),
            event_type: Some(Cow::Borrowed("play")),
            event_ts: 1_767_323_045_000_006,
            duration_ms: Some(-7),
            device: Some(Cow::Borrowed(
                "i\"o\\s\u{0}\u{1b}\n\r\t\u{8}\u{c}\u{7f}é😀/",
            )),
            raw_payload: Some(Cow::Borrowed("{\"a\": [1.0, null]}")),
        }
    }

    fn empty() -> Engagement<'static> {
        Engagement {
            id: i64::MIN,
            content_id: None,
            user_id: None,
            event_type: None,
            event_ts: 0,
            duration_ms: None,
            device: None,
            raw_payload: None,
        }
    }

    #[test]
    fn the_bodies_never_change() {
        let expected = concat!(
            r#"{"id":42,"content_id":"01020304-0506-0708-090a-0b0c0d0e0f10","#,
            r#""user_id":"ffffffff-ffff-ffff-ffff-ffffffffffff","event_type":"play","#,
            r#""event_ts":"2026-01-02T03:04:05.000006Z","duration_ms":-7,"#,
            r#""device":"i\"o\\s\u0000\u001b\n\r\t\b\f"#,
            "\u{7f}é😀/",
            r#"","raw_payload":"{\"a\": [1.0, null]}"}"#,
        );
        assert_eq!(String::from_utf8(body(&full())).unwrap(), expected);
        let expected = concat!(
            r#"{"id":-9223372036854775808,"content_id":null,"user_id":null,"event_type":null,"#,
            r#""event_ts":"1970-01-01T00:00:00.000000Z","duration_ms":null,"device":null,"#,
            r#""raw_payload":null}"#,
        );
        assert_eq!(String::from_utf8(body(&empty())).unwrap(), expected);
    }

    #[test]
    fn the_keys_never_change() {
        let table = "public.engagement_events";
        let key = |event: &Engagement<'_>| idempotency_key(table, &body(event)).to_string();
        assert_eq!(key(&full()), "fac1d022-deba-59be-9a4c-2a91d79e0197");
        assert_eq!(key(&empty()), "2fe966a4-d189-5424-ae3a-47d705e58734");
    }

    #[test]
    fn another_table_or_value_gives_another_key() {
        let body = body(&full());
        let key = idempotency_key("public.a", &body);
        assert_ne!(key, idempotency_key("public.b", &body));
        let mut other = full();
        other.duration_ms = Some(0);
        assert_ne!(key, idempotency_key("public.a", &super::body(&other)));
    }

    proptest! {
        #[test]
        fn the_json_body_keeps_the_text(device in any::<String>(), payload in any::<String>()) {
            let mut event = full();
            event.device = Some(Cow::Borrowed(&device));
            event.raw_payload = Some(Cow::Borrowed(&payload));
            let read: serde_json::Value = serde_json::from_slice(&body(&event)).unwrap();
            prop_assert_eq!(read["device"].as_str(), Some(device.as_str()));
            prop_assert_eq!(read["raw_payload"].as_str(), Some(payload.as_str()));
        }
    }
}
