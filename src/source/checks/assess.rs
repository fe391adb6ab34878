//! The overall assessment of the source: its current state, and its history.

use super::{
    Baseline, Catalogue, Changed, Code, Difference, Expected, Finding, Fingerprint, Properties,
    RECONCILE, Reason, Severity, check, differences, drift, has_begun, strays,
};

/// The stored records of the time since history was last known to be complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub baseline: Baseline,
    pub changed: Changed,
}

/// State of the connector. A field is `None` if it could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectorState {
    /// Notification of the connector's latest initial snapshot.
    pub snapshot: Option<String>,
    /// The connector's current configuration, as returned by [`super::relevant`].
    pub connector: Option<Properties>,
}

/// Returns all problems of the source, the worst first. Until the connector starts to read,
/// only unsupported tables are reported, because the rest does not exist yet.
#[must_use]
pub fn assess(
    catalogue: &Catalogue,
    expected: &Expected,
    history: Option<&History>,
    connector_state: &ConnectorState,
) -> Vec<Finding> {
    let mut findings = check(catalogue, expected);
    let Some(history) = history else {
        if !has_begun(catalogue) {
            findings.retain(|finding| finding.severity == Severity::Unsupported);
        }
        return findings;
    };
    findings.extend(slot_problem(catalogue, expected));
    let fingerprint = &history.baseline.fingerprint;
    let published = strays(catalogue, expected, fingerprint).into_iter();
    findings.extend(published.map(|(table, stray)| {
        let what = format!(
            "publication {} still includes {}, which was {table}: its changes would be recorded as \
             changes of {table}",
            expected.publication, stray.name
        );
        Finding::new(
            Code::PublicationStray,
            Severity::Incomplete,
            what,
            "fanout up",
        )
        .of_table(table)
    }));
    findings.extend(changed_configuration(&history.baseline, connector_state));
    findings.extend(altered_tables(catalogue, expected, &history.baseline));
    findings.extend(repeated_snapshot(&history.baseline, connector_state));
    findings.extend(history.changed.reasons.iter().map(recorded_finding));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Returns the current problems that must be recorded, because nothing shows them once they are
/// fixed.
#[must_use]
pub fn reasons_to_record(findings: &[Finding], at: &str) -> Vec<Reason> {
    let is_transient = |code| {
        matches!(
            code,
            Code::SlotMissing | Code::SlotLost | Code::ConnectorConfig
        )
    };
    let transient = findings.iter().filter(|finding| is_transient(finding.code));
    transient
        .map(|finding| Reason {
            code: finding.code,
            table: finding.table.clone(),
            what: finding.what.clone(),
            at: at.to_owned(),
        })
        .collect()
}

fn unreconciled(code: Code, what: String) -> Finding {
    Finding::new(code, Severity::Unreconciled, what, RECONCILE)
}

fn slot_problem(catalogue: &Catalogue, expected: &Expected) -> Option<Finding> {
    let name = &expected.slot;
    let Some(slot) = &catalogue.slot else {
        let what = format!("replication slot {name} was dropped");
        return Some(unreconciled(Code::SlotMissing, what));
    };
    let lost = slot.wal_status.as_deref() == Some("lost");
    lost.then(|| {
        let what = format!("replication slot {name} lost its WAL");
        unreconciled(Code::SlotLost, what)
    })
}

fn changed_configuration(baseline: &Baseline, connector_state: &ConnectorState) -> Option<Finding> {
    let (then, now) = (
        baseline.connector.as_ref()?,
        connector_state.connector.as_ref()?,
    );
    let changed = drift(then, now);
    if changed.is_empty() {
        return None;
    }
    let what = format!(
        "the connector was reconfigured externally: {}",
        changed.join(", ")
    );
    Some(Finding::new(
        Code::ConnectorConfig,
        Severity::Incomplete,
        what,
        "fanout connector apply",
    ))
}

/// Returns one finding for each altered table.
fn altered_tables(catalogue: &Catalogue, expected: &Expected, baseline: &Baseline) -> Vec<Finding> {
    let snapshot = baseline.fingerprint.snapshot.clone();
    let now = Fingerprint::of(catalogue, expected, snapshot);
    let mut findings: Vec<Finding> = Vec::new();
    for Difference { table, what } in differences(&baseline.fingerprint, &now) {
        let known = findings.iter_mut().find(|finding| finding.table == table);
        if let Some(known) = known {
            known.what.push_str(", ");
            known.what.push_str(&what);
            continue;
        }
        let what = format!("changes may be missing since {}: {what}", baseline.at);
        let finding = unreconciled(Code::SourceChanged, what);
        findings.push(Finding { table, ..finding });
    }
    findings
}

/// Reports a repeated snapshot, which lacks the rows that were deleted before it.
fn repeated_snapshot(baseline: &Baseline, connector_state: &ConnectorState) -> Option<Finding> {
    let (then, now) = (&baseline.fingerprint.snapshot, &connector_state.snapshot);
    if now.is_none() || now == then {
        return None;
    }
    let what = format!(
        "deletes may be missing since {}: the connector started over with a snapshot",
        baseline.at
    );
    Some(unreconciled(Code::SnapshotRepeated, what))
}

fn recorded_finding(reason: &Reason) -> Finding {
    let what = format!("changes may be missing: {} ({})", reason.what, reason.at);
    Finding {
        table: reason.table.clone(),
        ..unreconciled(reason.code, what)
    }
}
