//! The report in the format that CI systems display as test results.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::{
    Report,
    hop::{Hop, Outcome},
};

/// Returns the report as a JUnit document with one test per hop.
#[must_use]
pub fn junit(report: &Report) -> String {
    let mut suite = TestSuite::new("fanout smoke");
    suite.add_test_cases(report.hops.iter().map(case));
    let mut document = Junit::new("fanout");
    document.add_test_suite(suite);
    // Writing to a string does not fail.
    document.to_string().unwrap_or_default()
}

fn case(hop: &Hop) -> TestCase {
    let status = match hop.outcome {
        Outcome::Ok => TestCaseStatus::success(),
        Outcome::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(hop.evidence.as_str());
            status
        }
        Outcome::Broken => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(hop.evidence.as_str());
            if let Some(hint) = &hop.hint {
                status.set_description(format!("hint: {hint}"));
            }
            status
        }
    };
    let mut case = TestCase::new(hop.place.name(), status);
    case.set_classname("smoke");
    if let Some(millis) = hop.millis {
        case.set_time(Duration::from_secs_f64(millis / 1_000.0));
    }
    case
}

#[cfg(test)]
mod tests {
    use super::{super::hop::Place, *};
    use crate::sink_kind::SinkKind;

    #[test]
    fn a_broken_hop_is_a_failure_with_its_evidence() {
        let hop = |place, outcome, evidence: &str| Hop {
            place,
            outcome,
            millis: Some(12.5),
            evidence: evidence.to_owned(),
            hint: Some("fanout status".to_owned()),
        };
        let text = junit(&Report {
            event_id: 1,
            content_id: uuid::Uuid::nil(),
            latency_budget_ms: 5_000,
            hops: vec![
                hop(Place::Kafka, Outcome::Ok, "seen"),
                hop(
                    Place::Sink(SinkKind::Redis),
                    Outcome::Broken,
                    "score 2 < \"3\"",
                ),
                hop(Place::Sink(SinkKind::Http), Outcome::Skipped, "not a stub"),
            ],
        });
        assert!(text.contains(r#"tests="3""#), "{text}");
        assert!(text.contains(r#"failures="1""#), "{text}");
        assert!(text.contains("score 2 &lt; &quot;3&quot;"), "{text}");
        assert!(text.contains("hint: fanout status"), "{text}");
    }
}
