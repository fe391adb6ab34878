//! Fills `{{name}}` placeholders in the texts of `stack/`, `sql/` and
//! `connect/`. What the names stand for is the caller's.

use std::collections::{BTreeMap, BTreeSet};

/// What the placeholders stand for.
pub type Values = BTreeMap<String, String>;

/// A text without placeholders, and which of them it had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    pub used: BTreeSet<String>,
}

/// Why a text cannot be filled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{{{{{name}}}}} stands for nothing; there are {}", known.join(", "))]
pub struct TemplateError {
    name: String,
    known: Vec<String>,
}

/// Fills every placeholder of `template`. Braces around anything that is not a
/// name of `a-z`, `0-9`, `_`, `-` and `.` are left as they are.
///
/// # Errors
/// When a placeholder's name is not among `values`.
pub fn render(template: &str, values: &Values) -> Result<Rendered, TemplateError> {
    let mut rendered = Rendered::default();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        rendered.text.push_str(before);
        let name = after.split_once("}}").filter(|(name, _)| is_name(name));
        let Some((name, behind)) = name else {
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
        rest = behind;
    }
    rendered.text.push_str(rest);
    Ok(rendered)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(allowed)
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
    fn placeholders_are_filled_and_named() {
        let rendered = render("-D {{data}} -p {{port}}.", &values()).expect("known names");
        assert_eq!(rendered.text, "-D /d -p 5432.");
        assert_eq!(
            rendered.used.into_iter().collect::<Vec<_>>(),
            ["data", "port"]
        );
    }

    #[test]
    fn other_braces_stay() {
        let text = "%d{yyyy}{UTC} {{ {{A}} {{}} {";
        assert_eq!(render(text, &values()).expect("no names").text, text);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let error = render("{{prot}}", &values()).expect_err("no such name");
        assert_eq!(
            error.to_string(),
            "{{prot}} stands for nothing; there are data, port"
        );
    }
}
