//! What happened to a source meanwhile.

use super::*;

#[test]
fn what_was_altered_and_altered_back_is_noticed() {
    type Change = fn(&mut Catalogue);
    let changes: [(&str, Change); 10] = [
        ("operations", |c| {
            c.publication.as_mut().expect("it").xmin += 1;
        }),
        ("recreated", |c| {
            c.publication.as_mut().expect("it").oid += 1;
        }),
        ("taken out and put back, or filtered", |c| {
            table(c, "content").member.as_mut().expect("it").oid += 1;
        }),
        ("dropped and created, or swapped in", |c| {
            table(c, "content").oid += 1;
        }),
        ("another key for a while", |c| {
            table(c, "content").primary_key.as_mut().expect("it").oid += 1;
        }),
        ("rewritten by ALTER TYPE … USING", |c| {
            table(c, "engagement_events").file += 1;
            column(c, "duration_ms").xmin += 1;
        }),
        ("another column under the name", |c| {
            column(c, "device").number += 9;
        }),
        ("no longer published", |c| {
            table(c, "content").member = None;
            table(c, "content").published = false;
        }),
        ("slot dropped", |c| c.slot = None),
        ("slot lost", |c| {
            c.slot.as_mut().expect("it").wal_status = Some("lost".to_owned());
        }),
    ];
    for (what, change) in changes {
        assert!(is_alarmed(change), "{what}");
    }
}

#[test]
fn maintenance_and_what_is_not_in_use_is_no_alarm() {
    type Change = fn(&mut Catalogue);
    let changes: [(&str, Change); 6] = [
        ("VACUUM FULL or CLUSTER", |c| table(c, "content").file += 1),
        ("ALTER COLUMN … SET STATISTICS", |c| {
            column(c, "device").xmin += 1;
        }),
        ("another table in the publication", |c| {
            let others = &mut c.publication.as_mut().expect("it").others;
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
        ("the replica identity altered and altered back", |c| {
            table(c, "content").identity = "d".to_owned();
        }),
        ("an index", |c| {
            table(c, "content").indexed.push("slug".to_owned());
        }),
    ];
    for (what, change) in changes {
        assert!(!is_alarmed(change), "{what}");
    }
}

#[test]
fn a_column_that_was_renamed_and_renamed_back_was_altered() {
    let before = good();
    let altered = |change: fn(&mut Catalogue)| {
        let mut catalogue = good();
        change(&mut catalogue);
        let print = |of| Fingerprint::of(of, &expected(), None);
        let altered = altered_columns(&print(&before), &print(&catalogue));
        altered
            .into_iter()
            .map(|one| one.column)
            .collect::<Vec<_>>()
    };
    let device = altered(|c| column(c, "device").xmin += 1);
    assert_eq!(device, ["device"]);
    assert_eq!(altered(|c| column(c, "device").name.push('x')), ["device"]);
    assert!(altered(|c| table(c, "content").oid += 1).len() > 1);
    assert!(altered(|c| table(c, "content").file += 1).is_empty());
}

#[test]
fn an_alarm_lasts_until_another_baseline_and_names_the_tables() {
    let mut catalogue = good();
    table(&mut catalogue, "content")
        .member
        .as_mut()
        .expect("it")
        .oid += 1;
    let findings = since_good(&catalogue);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].table.as_deref(), Some("public.content"));
    assert_eq!(findings[0].remedy, RECONCILE);
    let history = history(&catalogue);
    let surroundings = Surroundings::default();
    assert_eq!(
        assess(&catalogue, &expected(), Some(&history), &surroundings),
        []
    );
}

#[test]
fn a_snapshot_or_a_configuration_of_somebody_elses_is_noticed() {
    let history = history(&good());
    let with = |snapshot: &str, value: &str| {
        let surroundings = Surroundings {
            snapshot: Some(snapshot.to_owned()),
            connector: Some(relevant(&Properties::from([
                ("a".to_owned(), value.to_owned()),
                ("poll.interval.ms".to_owned(), "9".to_owned()),
            ]))),
        };
        let findings = assess(&good(), &expected(), Some(&history), &surroundings);
        findings.into_iter().map(|one| one.code).collect::<Vec<_>>()
    };
    assert_eq!(with("first", "1"), []);
    assert_eq!(with("second", "1"), [Code::SnapshotRepeated]);
    assert_eq!(with("first", "2"), [Code::ConnectorConfig]);
}

#[test]
fn what_nothing_shows_once_it_is_right_again_is_remembered() {
    let mut history = history(&good());
    let mut catalogue = good();
    catalogue.slot = None;
    let findings = since_good(&catalogue);
    let reasons = to_remember(&findings, "now");
    assert_eq!(reasons.len(), 1);
    for reason in reasons {
        assert!(history.changed.add(reason.clone()));
        assert!(!history.changed.add(reason), "once");
    }
    let after = assess(
        &good(),
        &expected(),
        Some(&history),
        &Surroundings::default(),
    );
    assert_eq!(after[0].severity, Severity::Unreconciled);
    assert!(after[0].what.contains("dbz_slot was dropped"), "{after:?}");
}

#[test]
fn the_table_that_was_swapped_out_is_published_as_a_stray() {
    let history = history(&good());
    let mut catalogue = good();
    table(&mut catalogue, "engagement_events").oid = 999;
    let others = &mut catalogue.publication.as_mut().expect("it").others;
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
