//! Selection of dead letters.

use std::collections::BTreeSet;

use super::error::DlqError;
use crate::{
    debezium::RejectCode,
    runtime::letter::{DeadLetter, DeadLetterId},
    sink_kind::ConsumerGroup,
    sinks::http,
    text::suggest::unknown,
};

/// A filter of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ids of the selected dead letters. Empty means all.
    pub ids: BTreeSet<DeadLetterId>,
    pub sink: Option<ConsumerGroup>,
    pub code: Option<String>,
}

impl Filter {
    /// Creates a filter by sink and code.
    ///
    /// # Errors
    /// If there is no such sink or code.
    pub fn new(
        ids: BTreeSet<DeadLetterId>,
        sink: Option<String>,
        code: Option<String>,
    ) -> Result<Self, DlqError> {
        let sink = sink.map(|name| name.parse::<ConsumerGroup>()).transpose();
        let sink = sink.map_err(|error| DlqError::Unknown(error.to_string()))?;
        let codes: Vec<&str> = RejectCode::ALL
            .iter()
            .map(|code| code.as_str())
            .chain(http::REJECT_CODES)
            .collect();
        if let Some(code) = &code
            && !codes.contains(&code.as_str())
        {
            return Err(DlqError::Unknown(unknown("code", code, &codes)));
        }
        Ok(Self { ids, sink, code })
    }

    /// Returns true if the dead letter is selected. Purged ones never are.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        if letter.purged || !(self.ids.is_empty() || self.ids.contains(&letter.id)) {
            return false;
        }
        let has_sink = |sink: ConsumerGroup| sink.name() == letter.sink;
        let has_code = |code: &str| code == letter.code;
        self.sink.is_none_or(has_sink) && self.code.as_deref().is_none_or(has_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure as _, Kind};

    #[test]
    fn an_unknown_sink_or_code_is_a_usage_error() {
        let filter = |sink: Option<&str>, code: Option<&str>| {
            Filter::new(
                BTreeSet::new(),
                sink.map(str::to_owned),
                code.map(str::to_owned),
            )
        };
        assert!(filter(Some("content"), Some("bad_uuid")).is_ok());
        assert!(filter(Some("http"), Some("http_conflict")).is_ok());
        let error = filter(Some("htpp"), Some("bad_uid")).expect_err("unknown sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htpp\", expected one of redis, clickhouse, http, content (did you \
             mean \"http\"?)"
        );
        let error = filter(None, Some("bad_uid")).expect_err("unknown code");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(
            error.to_string().ends_with("(did you mean \"bad_uuid\"?)"),
            "{error}"
        );
    }
}
