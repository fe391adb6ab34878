//! Current problems of a source.

use super::*;

#[test]
fn a_valid_source_has_no_findings() {
    assert_eq!(found(|_| {}), []);
    assert_eq!(since_good(&good()), []);
    assert_eq!(statements(&good(), &expected(), true), []);
}

#[test]
fn every_unsupported_shape_has_its_code() {
    use Code as C;
    type Change = fn(&mut Catalogue);
    let cases: [(Change, Code); 20] = [
        (|c| c.version = 130_012, C::PostgresVersion),
        (|c| c.wal_level = "replica".to_owned(), C::WalLevel),
        (
            |c| c.relations.retain(|relation| relation.name != "content"),
            C::TableMissing,
        ),
        (|c| table(c, "content").kind = "p".to_owned(), C::TableKind),
        (|c| table(c, "content").kind = "f".to_owned(), C::TableKind),
        (|c| table(c, "content").kind = "v".to_owned(), C::TableKind),
        (|c| table(c, "content").kind = "m".to_owned(), C::TableKind),
        (
            |c| {
                table(c, "content").is_partition = true;
                table(c, "content").parents = vec!["whole".to_owned()];
            },
            C::TablePartition,
        ),
        (
            |c| table(c, "content").parents = vec!["p".to_owned()],
            C::TableInherits,
        ),
        (
            |c| table(c, "content").children = vec!["c".to_owned()],
            C::TableInherits,
        ),
        (
            |c| table(c, "content").persistence = "u".to_owned(),
            C::TableUnlogged,
        ),
        (|c| table(c, "content").row_security = true, C::RowSecurity),
        (|c| table(c, "content").primary_key = None, C::PrimaryKey),
        (
            |c| {
                let key = table(c, "content").primary_key.as_mut().expect("a key");
                key.columns = vec!["id".to_owned(), "slug".to_owned()];
            },
            C::PrimaryKey,
        ),
        (
            |c| {
                let key = table(c, "content").primary_key.as_mut().expect("a key");
                key.deferrable = true;
            },
            C::PrimaryKeyDeferrable,
        ),
        (
            |c| column(c, "device").name = "gadget".to_owned(),
            C::ColumnMissing,
        ),
        (|c| column(c, "id").base = "int4".to_owned(), C::ColumnType),
        (
            |c| column(c, "event_ts").base = "timestamp".to_owned(),
            C::ColumnType,
        ),
        (
            |c| column(c, "device").base = "public.text".to_owned(),
            C::ColumnType,
        ),
        (
            |c| column(c, "duration_ms").generated = true,
            C::ColumnGenerated,
        ),
    ];
    for (change, code) in cases {
        assert_eq!(found(change), [(code, Severity::Unsupported)], "{code:?}");
    }
}

#[test]
fn types_with_only_supported_values_are_accepted() {
    for (name, base) in [
        ("device", "varchar"),
        ("duration_ms", "int2"),
        ("raw_payload", "json"),
    ] {
        let found = found(|catalogue| column(catalogue, name).base = base.to_owned());
        assert_eq!(found, [], "{name} {base}");
    }
}

#[test]
fn everything_that_the_publication_excludes_is_found() {
    let publication =
        |catalogue: &mut Catalogue| catalogue.publication.take().expect("a publication");
    let changed = |change: fn(&mut Publication)| {
        found(|catalogue| {
            let mut found = publication(catalogue);
            change(&mut found);
            catalogue.publication = Some(found);
        })
    };
    let with_table = |change: fn(&mut Relation)| found(|c| change(table(c, "engagement_events")));
    let incomplete = |code| vec![(code, Severity::Incomplete)];
    let operations = incomplete(Code::PublicationOperations);
    assert_eq!(
        found(|c| c.publication = None),
        incomplete(Code::PublicationMissing)
    );
    assert_eq!(
        changed(|publication| publication.delete = false),
        operations
    );
    assert_eq!(
        changed(|publication| publication.truncate = false),
        operations
    );
    let unpublished = |relation: &mut Relation| {
        relation.published = false;
        relation.member = None;
    };
    assert_eq!(with_table(unpublished), incomplete(Code::PublicationTable));
    let filtered =
        |relation: &mut Relation| relation.member.as_mut().expect("a member").filter = true;
    assert_eq!(with_table(filtered), incomplete(Code::PublicationRowFilter));
    let narrowed = |relation: &mut Relation| {
        relation.member.as_mut().expect("a member").columns = Some(vec!["id".to_owned()]);
    };
    assert_eq!(with_table(narrowed), incomplete(Code::PublicationColumns));
    let by_index = |relation: &mut Relation| {
        relation.identity = "i".to_owned();
        relation.identity_index = Some("another".to_owned());
    };
    assert_eq!(with_table(by_index), incomplete(Code::ReplicaIdentity));
}

#[test]
fn a_problem_that_loses_no_changes_is_impaired() {
    let impaired = |code| vec![(code, Severity::Impaired)];
    let identity = |identity: &str| {
        found(|catalogue| table(catalogue, "content").identity = identity.to_owned())
    };
    assert_eq!(identity("d"), impaired(Code::ReplicaIdentity));
    assert_eq!(identity("n"), impaired(Code::ReplicaIdentity));
    let signal = |change: fn(&mut Relation)| found(|c| change(table(c, "debezium_signal")));
    assert_eq!(
        signal(|relation| relation.published = false),
        impaired(Code::PublicationTable)
    );
    let missing = found(|catalogue| {
        catalogue
            .relations
            .retain(|relation| relation.name != HELPERS[0]);
    });
    assert_eq!(missing, impaired(Code::HelperMissing));
    let nullable = found(|catalogue| column(catalogue, "event_ts").not_null = false);
    assert_eq!(nullable, impaired(Code::ColumnNullable));
}

#[test]
fn a_domain_over_an_enum_is_unsupported_only_before_the_connector_starts() {
    let severity = |mut catalogue: Catalogue| {
        catalogue.domain_over_enum = Some("mood".to_owned());
        check(&catalogue, &expected())[0].severity
    };
    assert_eq!(severity(unread()), Severity::Unsupported);
    assert_eq!(severity(good()), Severity::Impaired);
}

#[test]
fn before_the_connector_starts_only_tables_are_checked() {
    let mut catalogue = unread();
    catalogue.publication = None;
    table(&mut catalogue, "content").identity = "d".to_owned();
    let assess =
        |catalogue: &Catalogue| assess(catalogue, &expected(), None, &ConnectorState::default());
    assert_eq!(assess(&catalogue), []);
    table(&mut catalogue, "content").kind = "p".to_owned();
    assert_eq!(assess(&catalogue)[0].code, Code::TableKind);
    catalogue.slot = Some(Slot::default());
    let codes: Vec<Code> = assess(&catalogue)
        .iter()
        .map(|finding| finding.code)
        .collect();
    assert_eq!(codes, [Code::TableKind, Code::PublicationMissing]);
}
