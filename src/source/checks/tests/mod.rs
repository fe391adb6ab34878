//! Tests of the problems that are noticed, and of false alarms.

mod changes;
mod repairs;
mod shapes;

use super::*;
use crate::config;

fn expected() -> Expected {
    Expected::demo(&config::Connector::default())
}

/// Returns a relation as `up` creates it.
fn relation(table: &ExpectedTable, oid: u32) -> Relation {
    let columns = (1..).zip(&table.columns).map(|(number, column)| Column {
        name: column.name.clone(),
        number,
        xmin: 700,
        base: column.kind.names()[0].to_owned(),
        shown: column.kind.sql().to_owned(),
        not_null: column.required,
        generated: false,
    });
    Relation {
        oid,
        identity: "f".to_owned(),
        columns: columns.collect(),
        primary_key: Some(PrimaryKey {
            oid: oid + 1,
            name: format!("{}_pkey", table.name),
            index: format!("{}_pkey", table.name),
            columns: vec!["id".to_owned()],
            deferrable: false,
        }),
        indexed: table.indexed.clone(),
        ..helper(&table.name, oid)
    }
}

fn helper(name: &str, oid: u32) -> Relation {
    Relation {
        oid,
        name: name.to_owned(),
        kind: "r".to_owned(),
        persistence: "p".to_owned(),
        identity: "d".to_owned(),
        file: oid,
        published: true,
        member: Some(Member {
            oid: oid + 2,
            ..Member::default()
        }),
        ..Relation::default()
    }
}

/// Returns a valid database that the connector reads.
fn good() -> Catalogue {
    let expected = expected();
    let tables = (100..).step_by(10).zip(&expected.tables);
    let tables = tables.map(|(oid, table)| relation(table, oid));
    let helpers = (200..).step_by(10).zip(HELPERS);
    let helpers = helpers.map(|(oid, name)| helper(name, oid));
    Catalogue {
        version: 150_018,
        wal_level: "logical".to_owned(),
        role: "app".to_owned(),
        relations: tables.chain(helpers).collect(),
        publication: Some(Publication {
            oid: 300,
            xmin: 701,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            ..Publication::default()
        }),
        slot: Some(Slot {
            active: true,
            wal_status: Some("reserved".to_owned()),
        }),
        domain_over_enum: None,
    }
}

/// Returns a valid database before the connector starts to read.
fn unread() -> Catalogue {
    Catalogue {
        slot: None,
        ..good()
    }
}

fn table<'c>(catalogue: &'c mut Catalogue, name: &str) -> &'c mut Relation {
    let mut relations = catalogue.relations.iter_mut();
    relations
        .find(|relation| relation.name == name)
        .expect("a table")
}

fn column<'c>(catalogue: &'c mut Catalogue, name: &str) -> &'c mut Column {
    let events = table(catalogue, "engagement_events");
    let mut columns = events.columns.iter_mut();
    columns
        .find(|column| column.name == name)
        .expect("a column")
}

/// Returns the code and severity of each finding after `change`.
fn found(change: impl FnOnce(&mut Catalogue)) -> Vec<(Code, Severity)> {
    let mut catalogue = good();
    change(&mut catalogue);
    let findings = check(&catalogue, &expected());
    for finding in &findings {
        let has_text = !finding.what.is_empty() && !finding.remedy.is_empty();
        assert!(has_text, "{finding:?}");
    }
    let all = findings.into_iter();
    all.map(|finding| (finding.code, finding.severity))
        .collect()
}

fn history(catalogue: &Catalogue) -> History {
    let snapshot = Some("first".to_owned());
    let fingerprint = Fingerprint::of(catalogue, &expected(), snapshot);
    let connector = relevant(&Properties::from([("a".to_owned(), "1".to_owned())]));
    let baseline = Baseline::new(
        "one".to_owned(),
        "then".to_owned(),
        fingerprint,
        Some(connector),
    );
    History {
        changed: Changed::since(&baseline),
        baseline,
    }
}

/// Returns the findings about a database that was valid before.
fn since_good(now: &Catalogue) -> Vec<Finding> {
    let history = history(&good());
    assess(now, &expected(), Some(&history), &ConnectorState::default())
}

/// Returns true if history is reported as incomplete after `change`.
fn reports_lost_history(change: impl FnOnce(&mut Catalogue)) -> bool {
    let mut catalogue = good();
    change(&mut catalogue);
    let findings = since_good(&catalogue);
    let mut findings = findings.iter();
    findings.any(|finding| finding.severity == Severity::Unreconciled)
}

#[test]
fn the_record_formats_are_stable() {
    let history = history(&good());
    let text = history.baseline.text();
    assert!(
        text.starts_with(r#"{"format":1,"id":"one","at":"then","fingerprint":{"#),
        "{text}"
    );
    let read = Baseline::read(text.as_bytes()).expect("a baseline");
    assert_eq!(read, history.baseline);
    let changed = history.changed.text();
    assert_eq!(changed, r#"{"format":1,"baseline":"one","reasons":[]}"#);
    assert_eq!(
        Changed::read(changed.as_bytes()).expect("a record"),
        history.changed
    );
    let newer = text.replace(r#""format":1"#, r#""format":2"#);
    let error = Baseline::read(newer.as_bytes()).expect_err("a newer format");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn the_connector_delivers_the_required_tables() {
    let text = crate::assets::text("connect/pg-engagement-cdc.json").expect("a template");
    let template: Properties = serde_json::from_str(text).expect("properties");
    let expected = expected();
    let tables = expected.tables.iter().map(ExpectedTable::qualified);
    let signal = format!("{SCHEMA}.{}", HELPERS[0]);
    let list: Vec<String> = tables.chain([signal]).collect();
    assert_eq!(template["table.include.list"], list.join(","));
    let decisive = relevant(&template);
    for name in [
        "table.include.list",
        "skipped.operations",
        "transforms",
        "database.dbname",
    ] {
        assert!(decisive.contains_key(name), "{name}");
    }
    for name in [
        "database.password",
        "poll.interval.ms",
        "topic.creation.groups",
    ] {
        assert!(!decisive.contains_key(name), "{name}");
    }
}
