//! Changes to a source since its baseline.

use super::*;

#[test]
fn a_reverted_alteration_is_noticed() {
    type Change = fn(&mut Catalogue);
    let changes: [(&str, Change); 10] = [
        ("operations", |c| {
            c.publication.as_mut().expect("a publication").xmin += 1;
        }),
        ("recreated", |c| {
            c.publication.as_mut().expect("a publication").oid += 1;
        }),
        ("removed and added again, or filtered", |c| {
            table(c, "content").member.as_mut().expect("a member").oid += 1;
        }),
        ("dropped and created, or swapped", |c| {
            table(c, "content").oid += 1;
        }),
        ("another key for a while", |c| {
            table(c, "content").primary_key.as_mut().expect("a key").oid += 1;
        }),
        ("rewritten by ALTER TYPE … USING", |c| {
            table(c, "engagement_events").file += 1;
            column(c, "duration_ms").xmin += 1;
        }),
        ("another column with the same name", |c| {
            column(c, "device").number += 9;
        }),
        ("no longer published", |c| {
            table(c, "content").member = None;
            table(c, "content").published = false;
        }),
        ("slot dropped", |c| c.slot = None),
        ("slot lost", |c| {
            c.slot.as_mut().expect("a slot").wal_status = Some("lost".to_owned());
        }),
    ];
    for (what, change) in changes {
        assert!(reports_lost_history(change), "{what}");
    }
}

#[test]
fn maintenance_and_unused_objects_raise_no_alarm() {
    type Change = fn(&mut Catalogue);
    let changes: [(&str, Change); 6] = [
        ("VACUUM FULL or CLUSTER", |c| table(c, "content").file += 1),
        ("ALTER COLUMN … SET STATISTICS", |c| {
            column(c, "device").xmin += 1;
        }),
        ("another table in the publication", |c| {
            let others = &mut c.publication.as_mut().expect("a publication").others;
            others.push(NamedMember {
                oid: 999,
                name: "public.orders".to_owned(),
            });
        }),
        ("a column that is not in use", |c| {
            table(c, "content").columns.push(Column {
                name: "notes".to_owned(),
                number: 9,
                ..Column::default()
            });
        }),
        ("a reverted alteration of the replica identity", |c| {
            table(c, "content").identity = "d".to_owned();
        }),
        ("an index", |c| {
            table(c, "content").indexed.push("slug".to_owned());
        }),
    ];
    for (what, change) in changes {
        assert!(!reports_lost_history(change), "{what}");
    }
}

#[test]
fn a_renamed_column_counts_as_altered_even_if_renamed_back() {
    let before = good();
    let altered = |change: fn(&mut Catalogue)| {
        let mut catalogue = good();
        change(&mut catalogue);
        let print = |catalogue| Fingerprint::of(catalogue, &expected(), None);
        let altered = altered_columns(&print(&before), &print(&catalogue));
        altered
            .into_iter()
            .map(|altered| altered.column)
            .collect::<Vec<_>>()
    };
    let device = altered(|c| column(c, "device").xmin += 1);
    assert_eq!(device, ["device"]);
    assert_eq!(altered(|c| column(c, "device").name.push('x')), ["device"]);
    assert!(altered(|c| table(c, "content").oid += 1).len() > 1);
    assert!(altered(|c| table(c, "content").file += 1).is_empty());
}

#[test]
fn an_alarm_names_the_table_and_lasts_until_the_next_baseline() {
    let mut catalogue = good();
    table(&mut catalogue, "content")
        .member
        .as_mut()
        .expect("a member")
        .oid += 1;
    let findings = since_good(&catalogue);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].table.as_deref(), Some("public.content"));
    assert_eq!(findings[0].remedy, RECONCILE);
    let history = history(&catalogue);
    let connector_state = ConnectorState::default();
    assert_eq!(
        assess(&catalogue, &expected(), Some(&history), &connector_state),
        []
    );
}

#[test]
fn a_repeated_snapshot_or_external_configuration_is_noticed() {
    let history = history(&good());
    let with = |snapshot: &str, value: &str| {
        let connector_state = ConnectorState {
            snapshot: Some(snapshot.to_owned()),
            connector: Some(relevant(&Properties::from([
                ("a".to_owned(), value.to_owned()),
                ("poll.interval.ms".to_owned(), "9".to_owned()),
            ]))),
        };
        let findings = assess(&good(), &expected(), Some(&history), &connector_state);
        findings
            .into_iter()
            .map(|finding| finding.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(with("first", "1"), []);
    assert_eq!(with("second", "1"), [Code::SnapshotRepeated]);
    assert_eq!(with("first", "2"), [Code::ConnectorConfig]);
}

#[test]
fn a_problem_that_leaves_no_trace_is_recorded() {
    let mut history = history(&good());
    let mut catalogue = good();
    catalogue.slot = None;
    let findings = since_good(&catalogue);
    let reasons = reasons_to_record(&findings, "now");
    assert_eq!(reasons.len(), 1);
    for reason in reasons {
        assert!(history.changed.add(reason.clone()));
        assert!(!history.changed.add(reason), "a reason is recorded once");
    }
    let after = assess(
        &good(),
        &expected(),
        Some(&history),
        &ConnectorState::default(),
    );
    assert_eq!(after[0].severity, Severity::Unreconciled);
    assert!(after[0].what.contains("dbz_slot was dropped"), "{after:?}");
}

#[test]
fn a_swapped_out_table_is_a_stray_in_the_publication() {
    let history = history(&good());
    let mut catalogue = good();
    table(&mut catalogue, "engagement_events").oid = 999;
    let others = &mut catalogue
        .publication
        .as_mut()
        .expect("a publication")
        .others;
    others.push(NamedMember {
        oid: 110,
        name: "public.engagement_events_old".to_owned(),
    });
    let found = strays(&catalogue, &expected(), &history.baseline.fingerprint);
    assert_eq!(found[0].0, "public.engagement_events");
    assert_eq!(
        drop_stray("dbz_pub", found[0].1).sql,
        "ALTER PUBLICATION \"dbz_pub\" DROP TABLE public.engagement_events_old"
    );
}
