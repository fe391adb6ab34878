//! Checks of the source database: the requirements of Debezium and the pipeline.

use super::finding::Finding as Check;
use crate::{
    config::{Config, Settings},
    connections::{Connections, postgres},
    failure::chain,
    source::{
        InspectError, Inspection,
        checks::{Code, Expected, ExpectedTable, Finding, Severity, has_begun},
        connector::SLOT_LOST_REMEDY,
        look,
    },
    stack::{
        Site,
        reach::{self, Need},
    },
};

/// Returns the findings of the source. The recorded history is read only if `kafka_answers`.
pub(super) async fn examine(
    site: &Site,
    config: &Config,
    connections: &Connections,
    kafka_answers: bool,
) -> Vec<Check> {
    // If the project has no Postgres, another server may listen at its address.
    if let Err(error) = reach::check(site, config, &[("postgres", Need::Running)]).await {
        let evidence = format!("{}: not checked", chain(&error));
        return vec![Check::pass("postgres", evidence)];
    }
    match look(connections, kafka_answers).await {
        Ok(inspection) => findings(&inspection, connections.settings()),
        Err(InspectError::Postgres(error)) if !postgres::is_unreachable(&error) => {
            let fix = Some("fanout config show".to_owned());
            vec![Check::fail("postgres", chain(&error), fix)]
        }
        Err(InspectError::Postgres(_)) => {
            vec![Check::pass("postgres", "not running: not checked")]
        }
        Err(error @ InspectError::TooLong { .. }) => {
            vec![Check::warn("postgres", error.to_string(), "fanout status")]
        }
        Err(error) => vec![Check::fail("postgres", chain(&error), None)],
    }
}

fn findings(inspection: &Inspection, settings: &Settings) -> Vec<Check> {
    let expected = Expected::demo(&settings.connector);
    let has_started = has_begun(&inspection.catalogue);
    let found = &inspection.standing.findings;
    let mut checks = passed(inspection, &expected);
    checks.extend(found.iter().map(|finding| to_check(finding, has_started)));
    checks.extend(slot(inspection, settings));
    checks
}

/// Returns the passed checks.
fn passed(inspection: &Inspection, expected: &Expected) -> Vec<Check> {
    let has_finding = |codes: &[Code], table: Option<&ExpectedTable>| {
        let name = table.map(ExpectedTable::qualified);
        let mut findings = inspection.standing.findings.iter();
        findings.any(|finding| {
            codes.contains(&finding.code) && (name.is_none() || finding.table == name)
        })
    };
    let mut checks = Vec::new();
    if !has_finding(&[Code::WalLevel], None) {
        let level = inspection.catalogue.wal_level.clone();
        checks.push(Check::pass("postgres: wal_level", level));
    }
    for table in &expected.tables {
        let name = table.qualified();
        let mut findings = inspection.standing.findings.iter();
        let is_unsupported = |finding: &Finding| {
            finding.severity == Severity::Unsupported && finding.table.as_ref() == Some(&name)
        };
        if findings.any(is_unsupported) {
            continue;
        }
        let subject = format!("postgres: table {}", table.name);
        checks.push(Check::pass(subject, "supported"));
        if !has_finding(&[Code::ReplicaIdentity], Some(table)) {
            let subject = format!("postgres: replica identity of {}", table.name);
            checks.push(Check::pass(subject, "full"));
        }
    }
    let publication_codes = [
        Code::PublicationMissing,
        Code::PublicationOperations,
        Code::PublicationTable,
        Code::PublicationRowFilter,
        Code::PublicationColumns,
        Code::PublicationStray,
    ];
    if inspection.catalogue.publication.is_some() && !has_finding(&publication_codes, None) {
        let name = format!("postgres: publication {}", expected.publication);
        checks.push(Check::pass(name, "all tables, all operations"));
    }
    checks
}

fn to_check(finding: &Finding, has_started: bool) -> Check {
    let subject = match (&finding.table, finding.code) {
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
    let is_pending = finding.code == Code::TableMissing && !has_started;
    let is_minor = matches!(finding.code, Code::ColumnNullable | Code::DomainOverEnum)
        && finding.severity == Severity::Impaired;
    if is_pending || is_minor {
        return Check::warn(subject, evidence, fix);
    }
    Check::fail(subject, evidence, Some(fix))
}

/// Returns the check of the slot, or `None` if there is no slot. A lost slot does not recover
/// on its own.
fn slot(inspection: &Inspection, settings: &Settings) -> Option<Check> {
    let slot = inspection.catalogue.slot.as_ref()?;
    let name = format!("postgres: slot {}", settings.connector.slot);
    Some(match (slot.wal_status.as_deref(), slot.active) {
        (Some("lost"), _) => {
            let fix = SLOT_LOST_REMEDY.to_owned();
            Check::fail(name, "postgres has removed WAL that it needs", Some(fix))
        }
        (_, true) => Check::pass(name, "active"),
        (_, false) => {
            let evidence = "inactive: postgres retains WAL for it";
            Check::warn(name, evidence, "fanout connector status")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn a_table_that_up_will_create_is_a_warning_and_a_dropped_table_a_failure() {
        let missing = Finding::new(
            Code::TableMissing,
            Severity::Unsupported,
            "table public.content does not exist",
            "fanout up",
        );
        let missing = missing.of_table("public.content");
        assert_eq!(to_check(&missing, false).level, Level::Warn);
        let dropped = to_check(&missing, true);
        assert_eq!(dropped.level, Level::Fail);
        assert_eq!(dropped.name, "postgres: public.content");
    }
}
