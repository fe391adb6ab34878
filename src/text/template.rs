//! Fills `{{name}}` placeholders in the texts of `stack/`, `sql/` and `connect/`. The caller
//! provides the values.

use std::collections::{BTreeMap, BTreeSet};

/// Values of the placeholders, by name.
pub type Values = BTreeMap<String, String>;

/// A text without placeholders, and the names of the placeholders that it had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    pub used: BTreeSet<String>,
}

/// Error for an unknown placeholder.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown placeholder {{{{{name}}}}}, expected one of {}", known.join(", "))]
pub struct TemplateError {
    name: String,
    known: Vec<String>,
}

/// Fills every placeholder of `template`. Braces around anything else than a name of `a-z`,
/// `0-9`, `_`, `-` and `.` remain unchanged.
///
/// # Errors
/// If `values` lacks the name of a placeholder.
pub fn render(template: &str, values: &Values) -> Result<Rendered, TemplateError> {
    let mut rendered = Rendered::default();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        rendered.text.push_str(before);
        let name = after.split_once("}}").filter(|(name, _)| is_name(name));
        let Some((name, tail)) = name else {
            rendered.text.push_str("{{");
            rest = after;
            continue;
        };
        let value = values.get(name).ok_or_else(|| TemplateError {
            name: name.to_owned(),
            known: values.keys().cloned().collect(),
        })?;
        rendered.text.push_str(value);
        rendered.used.insert(name.to_owned());
        rest = tail;
    }
    rendered.text.push_str(rest);
    Ok(rendered)
}

fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        [("port", "5432"), ("data", "/d")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn placeholders_are_filled_and_listed() {
        let rendered = render("-D {{data}} -p {{port}}.", &values()).expect("known names");
        assert_eq!(rendered.text, "-D /d -p 5432.");
        assert_eq!(
            rendered.used.into_iter().collect::<Vec<_>>(),
            ["data", "port"]
        );
    }

    #[test]
    fn other_braces_remain() {
        let text = "%d{yyyy}{UTC} {{ {{A}} {{}} {";
        assert_eq!(render(text, &values()).expect("no names").text, text);
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_the_known_names() {
        let error = render("{{prot}}", &values()).expect_err("no such name");
        assert_eq!(
            error.to_string(),
            "unknown placeholder {{prot}}, expected one of data, port"
        );
    }
}
