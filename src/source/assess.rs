//! All that is known of the source at one moment, put together: its shape now,
//! and what its history says.

use super::{
    Baseline, Catalogue, Changed, Code, Difference, Expected, Finding, Fingerprint, Properties,
    RECONCILE, Reason, Severity, differences, drift, has_begun, judge, strays,
};

/// What has been kept since history was last known to be complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub baseline: Baseline,
    pub changed: Changed,
}

/// What was seen besides Postgres; none where nobody could be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The connector's latest initial snapshot.
    pub snapshot: Option<String>,
    /// What the connector is configured with, as [`super::relevant`] has it.
    pub connector: Option<Properties>,
}

/// Everything that is wrong with the source, the worst first. As long as the
/// connector has not begun to read, only the shape of its tables is judged:
/// the rest is yet to be made.
#[must_use]
pub fn assess(
    catalogue: &Catalogue,
    expected: &Expected,
    history: Option<&History>,
    surroundings: &Surroundings,
) -> Vec<Finding> {
    let mut findings = judge(catalogue, expected);
    let Some(history) = history else {
        if !has_begun(catalogue) {
            findings.retain(|finding| finding.severity == Severity::Unsupported);
        }
        return findings;
    };
    findings.extend(slot(catalogue, expected));
    let fingerprint = &history.baseline.fingerprint;
    let published = strays(catalogue, expected, fingerprint).into_iter();
    findings.extend(published.map(|(table, stray)| {
        let what = format!(
            "publication {} still includes {}, which was {table}: its changes would be taken for \
             those of {table}",
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
    findings.extend(connector(&history.baseline, surroundings));
    findings.extend(altered(catalogue, expected, &history.baseline));
    findings.extend(repeated(&history.baseline, surroundings));
    findings.extend(history.changed.reasons.iter().map(remembered));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Of what is wrong now, what has to be kept because nothing shows it any more
/// once it is right again.
#[must_use]
pub fn to_remember(findings: &[Finding], at: &str) -> Vec<Reason> {
    let passes = |code| {
        matches!(
            code,
            Code::SlotMissing | Code::SlotLost | Code::ConnectorConfig
        )
    };
    let passing = findings.iter().filter(|finding| passes(finding.code));
    passing
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

fn slot(catalogue: &Catalogue, expected: &Expected) -> Option<Finding> {
    let name = &expected.slot;
    let Some(slot) = &catalogue.slot else {
        let what = format!("replication slot {name} was dropped");
        return Some(unreconciled(Code::SlotMissing, what));
    };
    let lost = slot.wal_status.as_deref() == Some("lost");
    lost.then(|| {
        let what = format!("replication slot {name} lost its log");
        unreconciled(Code::SlotLost, what)
    })
}

fn connector(baseline: &Baseline, surroundings: &Surroundings) -> Option<Finding> {
    let (then, now) = (
        baseline.connector.as_ref()?,
        surroundings.connector.as_ref()?,
    );
    let changed = drift(then, now);
    if changed.is_empty() {
        return None;
    }
    let what = format!(
        "the connector was reconfigured by somebody else: {}",
        changed.join(", ")
    );
    Some(Finding::new(
        Code::ConnectorConfig,
        Severity::Incomplete,
        what,
        "fanout connector apply",
    ))
}

/// What was altered since, a finding for each table.
fn altered(catalogue: &Catalogue, expected: &Expected, baseline: &Baseline) -> Vec<Finding> {
    let snapshot = baseline.fingerprint.snapshot.clone();
    let now = Fingerprint::of(catalogue, expected, snapshot);
    let mut findings: Vec<Finding> = Vec::new();
    for Difference { table, what } in differences(&baseline.fingerprint, &now) {
        let known = findings.iter_mut().find(|one| one.table == table);
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

/// A snapshot shows what there is, and nothing of what was deleted before.
fn repeated(baseline: &Baseline, surroundings: &Surroundings) -> Option<Finding> {
    let (then, now) = (&baseline.fingerprint.snapshot, &surroundings.snapshot);
    if now.is_none() || now == then {
        return None;
    }
    let what = format!(
        "deletes may be missing since {}: the connector began again with a snapshot",
        baseline.at
    );
    Some(unreconciled(Code::SnapshotRepeated, what))
}

fn remembered(reason: &Reason) -> Finding {
    let what = format!("changes may be missing: {} ({})", reason.what, reason.at);
    Finding {
        table: reason.table.clone(),
        ..unreconciled(reason.code, what)
    }
}
