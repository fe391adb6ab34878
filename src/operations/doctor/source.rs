//! The source database: what Debezium and the pipeline need of it.

use super::finding::Finding as Checked;
use crate::{
    config::{Config, Settings},
    connections::{Connections, postgres},
    failure::chain,
    source::{
        InspectError, Looked,
        checks::{Code, Expected, ExpectedTable, Finding, Severity, has_begun},
        connector::SLOT_LOST_REMEDY,
        look,
    },
    stack::{
        Site,
        reach::{self, Need},
    },
};

/// `kafka_answers` says whether Kafka can be asked for what is kept about the
/// source.
pub(super) async fn examine(
    site: &Site,
    config: &Config,
    connections: &Connections,
    kafka_answers: bool,
) -> Vec<Checked> {
    // Anybody's server may listen where the project has none.
    if let Err(error) = reach::check(site, config, &[("postgres", Need::Running)]).await {
        let evidence = format!("{}: not looked into", chain(&error));
        return vec![Checked::pass("postgres", evidence)];
    }
    match look(connections, kafka_answers).await {
        Ok(looked) => findings(&looked, connections.settings()),
        Err(InspectError::Postgres(error)) if !postgres::is_unreachable(&error) => {
            let fix = Some("fanout config show".to_owned());
            vec![Checked::fail("postgres", chain(&error), fix)]
        }
        Err(InspectError::Postgres(_)) => {
            vec![Checked::pass("postgres", "not running: not looked into")]
        }
        Err(error @ InspectError::TooLong { .. }) => {
            vec![Checked::warn(
                "postgres",
                error.to_string(),
                "fanout status",
            )]
        }
        Err(error) => vec![Checked::fail("postgres", chain(&error), None)],
    }
}

fn findings(looked: &Looked, settings: &Settings) -> Vec<Checked> {
    let expected = Expected::demo(&settings.connector);
    let begun = has_begun(&looked.catalogue);
    let found = &looked.standing.findings;
    let mut checked = passed(looked, &expected);
    checked.extend(found.iter().map(|finding| of_finding(finding, begun)));
    checked.extend(slot(looked, settings));
    checked
}

/// What was looked at and is as it should be.
fn passed(looked: &Looked, expected: &Expected) -> Vec<Checked> {
    let wrong = |codes: &[Code], table: Option<&ExpectedTable>| {
        let name = table.map(ExpectedTable::qualified);
        let mut found = looked.standing.findings.iter();
        found.any(|one| codes.contains(&one.code) && (name.is_none() || one.table == name))
    };
    let mut checked = Vec::new();
    if !wrong(&[Code::WalLevel], None) {
        let level = looked.catalogue.wal_level.clone();
        checked.push(Checked::pass("postgres: wal_level", level));
    }
    for table in &expected.tables {
        let name = table.qualified();
        let mut found = looked.standing.findings.iter();
        let is_unsupported = |one: &Finding| {
            one.severity == Severity::Unsupported && one.table.as_ref() == Some(&name)
        };
        if found.any(is_unsupported) {
            continue;
        }
        let shape = format!("postgres: table {}", table.name);
        checked.push(Checked::pass(shape, "of a supported shape"));
        if !wrong(&[Code::ReplicaIdentity], Some(table)) {
            let identity = format!("postgres: replica identity of {}", table.name);
            checked.push(Checked::pass(identity, "full"));
        }
    }
    let of_publication = [
        Code::PublicationMissing,
        Code::PublicationOperations,
        Code::PublicationTable,
        Code::PublicationRowFilter,
        Code::PublicationColumns,
        Code::PublicationStray,
    ];
    if looked.catalogue.publication.is_some() && !wrong(&of_publication, None) {
        let name = format!("postgres: publication {}", expected.publication);
        checked.push(Checked::pass(name, "all tables, all operations"));
    }
    checked
}

fn of_finding(finding: &Finding, begun: bool) -> Checked {
    let what = match (&finding.table, finding.code) {
        (Some(table), Code::ReplicaIdentity) => {
            let table = table.rsplit('.').next().unwrap_or(table);
            format!("postgres: replica identity of {table}")
        }
        (Some(table), _) => format!("postgres: {table}"),
        (None, Code::WalLevel) => "postgres: wal_level".to_owned(),
        (None, Code::ConnectorConfig | Code::SnapshotRepeated) => "connector".to_owned(),
        (None, _) => "postgres".to_owned(),
    };
    let (evidence, fix) = (finding.what.clone(), finding.remedy.clone());
    let is_to_come = finding.code == Code::TableMissing && !begun;
    let is_mild = matches!(finding.code, Code::ColumnNullable | Code::DomainOverEnum)
        && finding.severity == Severity::Impaired;
    if is_to_come || is_mild {
        return Checked::warn(what, evidence, fix);
    }
    Checked::fail(what, evidence, Some(fix))
}

/// A slot that has lost its log does not come back by itself.
fn slot(looked: &Looked, settings: &Settings) -> Option<Checked> {
    let slot = looked.catalogue.slot.as_ref()?;
    let name = format!("postgres: slot {}", settings.connector.slot);
    Some(match (slot.wal_status.as_deref(), slot.active) {
        (Some("lost"), _) => {
            let fix = SLOT_LOST_REMEDY.to_owned();
            Checked::fail(name, "has lost its log", Some(fix))
        }
        (_, true) => Checked::pass(name, "read"),
        (_, false) => {
            let evidence = "nobody reads it, and postgres keeps its log";
            Checked::warn(name, evidence, "fanout connector status")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn what_up_has_yet_to_make_is_a_warning_and_what_is_gone_a_failure() {
        let missing = Finding::new(
            Code::TableMissing,
            Severity::Unsupported,
            "table public.content does not exist",
            "fanout up",
        );
        let missing = missing.of_table("public.content");
        assert_eq!(of_finding(&missing, false).level, Level::Warn);
        let gone = of_finding(&missing, true);
        assert_eq!(gone.level, Level::Fail);
        assert_eq!(gone.name, "postgres: public.content");
    }
}
