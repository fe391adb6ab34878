//! The keys of each command's JSON document. A document has the same keys on
//! success, refusal and failure; keys without a value are null.

use serde_json::{Map, Value as Json};

/// Returns the keys of a command's document, between `ok` and `error`.
fn keys(command: &str) -> &'static [&'static str] {
    match command {
        "up" => &[
            "dry_run",
            "because",
            "downloads",
            "moved",
            "changed",
            "altered",
            "remedy",
            "plan",
            "alterations",
            "unknown",
            "services",
        ],
        "down" => &[
            "dry_run",
            "stopped",
            "killed",
            "dependents",
            "data",
            "volumes",
        ],
        "reset" => &["dry_run", "removed"],
        "status" => &[
            "project",
            "runtime",
            "services",
            "connector",
            "connector_problem",
            "slot",
            "slot_problem",
            "source",
            "pipeline_url",
            "pipeline_problem",
            "sinks",
            "dead_letters",
            "stuck",
        ],
        "logs" => &["since", "lines"],
        "env" => &["variables"],
        "connector" => &[
            "action",
            "dry_run",
            "applied",
            "deleted",
            "connector",
            "connected",
        ],
        "seed" => &[
            "dry_run",
            "content",
            "content_written",
            "events",
            "first_id",
            "last_id",
            "seconds",
            "rng_seed",
        ],
        "run" => &[
            "url",
            "drained",
            "fence",
            "format",
            "version",
            "project",
            "pid",
            "started_ms",
            "sinks",
            "source",
        ],
        "smoke" => &[
            "event_id",
            "content_id",
            "latency_budget_ms",
            "hops",
            "broken",
        ],
        "peek" => &["place", "items"],
        "leaderboard" => &[
            "rows",
            "members",
            "meta",
            "score",
            "age_ms",
            "has_worker",
            "remark",
            "explanation",
        ],
        "backfill" => &["dry_run", "plan", "done"],
        "verify" => &["fence", "checks", "differences"],
        "dlq" => &[
            "action", "dry_run", "counts", "letters", "purged", "letter", "selected", "done",
        ],
        "doctor" => &["findings", "bundle"],
        "stub" => &["url", "data", "known", "faults"],
        "config" => &["values"],
        "completions" => &["script"],
        "man" => &["page"],
        _ => &[],
    }
}

/// Builds a command's document from the given fields, with null for missing
/// ones.
pub fn build(
    command: &str,
    ok: bool,
    mut fields: Map<String, Json>,
    error: Json,
) -> Map<String, Json> {
    let mut document = Map::new();
    document.insert("schema".to_owned(), format!("fanout.{command}/v1").into());
    document.insert("ok".to_owned(), ok.into());
    for key in keys(command) {
        let value = fields.shift_remove(*key).unwrap_or(Json::Null);
        document.insert((*key).to_owned(), value);
    }
    document.extend(fields);
    document.insert("error".to_owned(), error);
    document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_fields_are_null() {
        let error = json!({ "code": "not_confirmed" });
        let refused = Json::Object(build("reset", false, Map::new(), error));
        assert_eq!(
            refused.to_string(),
            r#"{"schema":"fanout.reset/v1","ok":false,"dry_run":null,"removed":null,"error":{"code":"not_confirmed"}}"#
        );
        let fields = Map::from_iter([("dry_run".to_owned(), json!(true))]);
        let done = Json::Object(build("reset", true, fields, Json::Null));
        assert_eq!(
            done.to_string(),
            r#"{"schema":"fanout.reset/v1","ok":true,"dry_run":true,"removed":null,"error":null}"#
        );
    }
}
