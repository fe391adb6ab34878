//! Which letters are meant.

use std::collections::BTreeSet;

use super::error::DlqError;
use crate::{
    debezium::RejectCode,
    runtime::letter::{Letter, LetterId},
    sink_kind::ConsumerGroup,
    sinks::http,
    text::suggest::unknown,
};

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// These; all, where none is named.
    pub ids: BTreeSet<LetterId>,
    pub sink: Option<ConsumerGroup>,
    pub code: Option<String>,
}

impl Filter {
    /// A filter by names, which have to be names of something.
    ///
    /// # Errors
    /// When there is no such sink or code.
    pub fn new(
        ids: BTreeSet<LetterId>,
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

    pub(super) fn takes(&self, letter: &Letter) -> bool {
        if letter.purged || !(self.ids.is_empty() || self.ids.contains(&letter.id)) {
            return false;
        }
        let is_sink = |sink: ConsumerGroup| sink.name() == letter.sink;
        let is_code = |code: &str| code == letter.code;
        self.sink.is_none_or(is_sink) && self.code.as_deref().is_none_or(is_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure as _, Kind};

    #[test]
    fn a_filter_by_a_name_that_is_none_is_a_mistake() {
        let filter = |sink: Option<&str>, code: Option<&str>| {
            Filter::new(
                BTreeSet::new(),
                sink.map(str::to_owned),
                code.map(str::to_owned),
            )
        };
        assert!(filter(Some("content"), Some("bad_uuid")).is_ok());
        assert!(filter(Some("http"), Some("http_conflict")).is_ok());
        let error = filter(Some("htpp"), Some("bad_uid")).expect_err("no sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htpp\", expected one of redis, clickhouse, http, content (did you \
             mean \"http\"?)"
        );
        let error = filter(None, Some("bad_uid")).expect_err("no code");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(
            error.to_string().ends_with("(did you mean \"bad_uuid\"?)"),
            "{error}"
        );
    }
}
