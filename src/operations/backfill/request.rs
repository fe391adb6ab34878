//! The request of a backfill.

use serde::Serialize;

use super::error::BackfillError;
use crate::{
    sink_kind::{SinkKind, Sinks, joined},
    time::instant::TimeSpec,
};

/// Request of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub from: TimeSpec,
    /// `None` means up to now.
    pub to: Option<TimeSpec>,
    pub source: Source,
    pub sinks: Sinks,
    /// Whether to delete rows from ClickHouse that are missing from the source. For the complete
    /// source, history is rebuilt from scratch, also in a project without ClickHouse.
    pub prune: bool,
}

/// Returns the default sinks of a request, chosen from the configured ones. The external system
/// is never a default.
#[must_use]
pub fn default_sinks(configured: &[SinkKind]) -> Sinks {
    let default = [SinkKind::ClickHouse, SinkKind::Redis];
    let default = default.into_iter().find(|sink| configured.contains(sink));
    let names = default.into_iter().map(|sink| sink.name().to_owned());
    Sinks::from(names.collect::<Vec<String>>())
}

/// Where to read history from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The topic: all changes, selected by the time of the records.
    Log,
    /// Postgres: the current rows, selected by the time of the events.
    Database,
}

impl Request {
    /// Returns the request in the fixed form that a journal contains.
    pub(super) fn form(&self) -> String {
        let to = self
            .to
            .map_or_else(|| "now".to_owned(), |to| to.to_string());
        let sinks = joined(&self.sinks, ",");
        let prune = if self.prune { ", pruned" } else { "" };
        format!(
            "{} .. {to} from {:?} into {sinks}{prune}",
            self.from, self.source
        )
    }

    /// Checks the request without accessing a server. `configured` are the project's sinks.
    ///
    /// # Errors
    /// If the request has an empty range or an unknown sink, or its options contradict each
    /// other.
    pub fn check(&self, now_us: i64, configured: &[SinkKind]) -> Result<(), BackfillError> {
        self.check_range(now_us)?;
        match self.sinks.unknown() {
            Some(unknown) => Err(BackfillError::Usage(unknown.to_string())),
            None if self.sinks.is_empty() => {
                let problem = "no sink to backfill: the external system must be requested \
                               explicitly with --sinks http";
                Err(BackfillError::Usage(problem.to_owned()))
            }
            None if self.prune && !self.is_compared(configured) => {
                let problem =
                    "--prune compares clickhouse with postgres: it requires --source database";
                Err(BackfillError::Usage(problem.to_owned()))
            }
            None => Ok(()),
        }
    }

    fn check_range(&self, now_us: i64) -> Result<(), BackfillError> {
        let from = self.from.resolve(now_us);
        let to = self.to.map(|to| to.resolve(now_us));
        let problem = match (from.micros(), to.map(|to| (to, to.micros()))) {
            (Some(start), _) if start >= now_us => format!("--from {from} is in the future"),
            (_, Some((_, None))) => "--to earliest leaves nothing to replay".to_owned(),
            (Some(start), Some((to, Some(end)))) if start == end => {
                format!("the range is empty: --from and --to are both {to}")
            }
            (Some(start), Some((to, Some(end)))) if start > end => {
                format!("the range runs backwards: --from {from} is after --to {to}")
            }
            _ => return Ok(()),
        };
        Err(BackfillError::Usage(problem))
    }

    /// Returns true if the request covers all of history, which is then rebuilt from scratch.
    pub(super) fn rebuilds(&self) -> bool {
        self.prune && self.from == TimeSpec::Earliest && self.to.is_none()
    }

    /// Returns true if missing topics are created: the state topic is needed to record that a
    /// sink was backfilled.
    pub(super) fn creates_topics(&self) -> bool {
        let is_recorded = |sink: &SinkKind| match sink {
            SinkKind::Redis | SinkKind::Http => true,
            SinkKind::ClickHouse => false,
        };
        self.rebuilds() || self.sinks.iter().any(is_recorded)
    }

    /// Returns true if the source is read, and ClickHouse takes part or is not a sink of the
    /// project.
    fn is_compared(&self, configured: &[SinkKind]) -> bool {
        let is_sink = configured.contains(&SinkKind::ClickHouse);
        self.source == Source::Database && (self.has(SinkKind::ClickHouse) || !is_sink)
    }

    /// Returns true if rows that are missing from the source are deleted.
    pub(super) fn prunes(&self) -> bool {
        self.prune && self.has(SinkKind::ClickHouse)
    }

    pub(super) fn has(&self, sink: SinkKind) -> bool {
        self.sinks.contains(&sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-02T03:04:05Z.
    const NOW: i64 = 1_767_323_045_000_000;

    fn request(sinks: &[&str]) -> Request {
        let sinks: Vec<String> = sinks.iter().map(|sink| (*sink).to_owned()).collect();
        Request {
            from: TimeSpec::Ago(7_200_000_000),
            to: None,
            source: Source::Log,
            prune: false,
            sinks: sinks.into(),
        }
    }

    #[test]
    fn a_request_has_one_form_and_its_sinks_are_checked() {
        let both = request(&["clickhouse", "http"]);
        assert_eq!(both.form(), "2h ago .. now from Log into clickhouse,http");
        assert!(both.check(NOW, &SinkKind::ALL).is_ok());
        assert!(request(&[]).check(NOW, &SinkKind::ALL).is_err());
        let future = Request {
            from: "0s".parse().expect("a time"),
            ..request(&["htp"])
        };
        let error = future
            .check(NOW, &SinkKind::ALL)
            .expect_err("in the future");
        assert!(error.to_string().contains("in the future"), "{error}");
        let error = request(&["htp"]).check(NOW, &SinkKind::ALL);
        let error = error.expect_err("no such sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htp\", expected one of redis, clickhouse, http (did you mean \"http\"?)"
        );
    }

    #[test]
    fn a_project_without_clickhouse_reconciles_without_it() {
        const LEAN: [SinkKind; 2] = [SinkKind::Redis, SinkKind::Http];
        assert_eq!(*default_sinks(&SinkKind::ALL), [SinkKind::ClickHouse]);
        assert_eq!(*default_sinks(&LEAN), [SinkKind::Redis]);
        assert!(default_sinks(&[SinkKind::Http]).is_empty());
        let reconcile = |sinks: &[&str]| Request {
            from: TimeSpec::Earliest,
            source: Source::Database,
            prune: true,
            ..request(sinks)
        };
        for (sinks, configured, allowed) in [
            (&["clickhouse"][..], &SinkKind::ALL[..], true),
            (&["redis"], &SinkKind::ALL, false),
            (&["redis"], &LEAN, true),
            (&["http"], &LEAN, true),
        ] {
            let request = reconcile(sinks);
            let checked = request.check(NOW, configured);
            assert_eq!(checked.is_ok(), allowed, "{sinks:?} {configured:?}");
            assert!(request.rebuilds());
            assert_eq!(request.prunes(), sinks == ["clickhouse"]);
        }
        let from_log = Request {
            source: Source::Log,
            ..reconcile(&["redis"])
        };
        assert!(from_log.check(NOW, &LEAN).is_err());
    }

    #[test]
    fn an_empty_range_is_refused() {
        let range = |from: &str, to: Option<&str>| Request {
            from: from.parse().expect("a time"),
            to: to.map(|to| to.parse().expect("a time")),
            ..request(&["clickhouse"])
        };
        for (from, to) in [("3h", Some("2h")), ("earliest", Some("1h")), ("1h", None)] {
            let checked = range(from, to).check(NOW, &SinkKind::ALL);
            assert!(checked.is_ok(), "{from} {to:?}");
        }
        for (from, to, message) in [
            ("2h", Some("3h"), "the range runs backwards"),
            ("2h", Some("2h"), "the range is empty"),
            ("2h", Some("earliest"), "--to earliest"),
            ("earliest", Some("earliest"), "--to earliest"),
            ("0s", None, "in the future"),
            ("2100-01-01T00:00:00Z", None, "in the future"),
        ] {
            let checked = range(from, to).check(NOW, &SinkKind::ALL);
            let error = checked.expect_err("refused");
            assert!(
                error.to_string().contains(message),
                "{from} {to:?}: {error}"
            );
        }
    }
}
