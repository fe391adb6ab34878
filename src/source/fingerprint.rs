//! Whether the source was altered behind our back: a fingerprint of all that
//! decides which changes reach the log, kept since history was last known to
//! be complete. Each part changes whenever something was altered and stays
//! changed when it is altered back.
//!
//! Left out is what maintenance changes by itself: `VACUUM`, also `FULL`,
//! `ANALYZE`, `CLUSTER`, `REINDEX`, altered statistics or defaults, columns that
//! are not in use, and other tables in the publication. A dump that was
//! restored, or another cluster after `pg_upgrade`, is another source.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Catalogue, Expected, Publication, Relation};

/// All that decides which changes reach the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub publication: Option<PublicationPrint>,
    /// By qualified name.
    pub tables: BTreeMap<String, TablePrint>,
    /// The notification with which the connector's latest initial snapshot
    /// began, as far as it is known: what was deleted before is not in it.
    pub snapshot: Option<String>,
}

/// A publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationPrint {
    pub oid: u32,
    pub xmin: u32,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePrint {
    pub oid: u32,
    pub file: u32,
    /// It is published, by an entry of its own or otherwise.
    pub published: bool,
    pub member: Option<u32>,
    pub schema_member: Option<u32>,
    pub primary_key: Option<u32>,
    /// Deletes do not carry the key.
    pub hides_its_key: bool,
    /// Of the columns in use: number, and the transaction that last altered it.
    pub columns: BTreeMap<String, (i16, u32)>,
}

/// Something that is other than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table concerned, by its qualified name; none concerns all.
    pub table: Option<String>,
    /// What happened, as the end of a sentence about the time since.
    pub what: String,
}

impl Fingerprint {
    /// Of a database, and of the connector's latest initial snapshot.
    #[must_use]
    pub fn of(catalogue: &Catalogue, expected: &Expected, snapshot: Option<String>) -> Self {
        let tables = expected.tables.iter().filter_map(|table| {
            let relation = catalogue.relation(&table.name)?;
            let columns = table.columns.iter().filter_map(|column| {
                let found = relation.column(&column.name)?;
                Some((column.name.clone(), (found.number, found.xmin)))
            });
            Some((
                table.qualified(),
                TablePrint::of(relation, columns.collect()),
            ))
        });
        Self {
            publication: catalogue.publication.as_ref().map(PublicationPrint::of),
            tables: tables.collect(),
            snapshot,
        }
    }
}

impl PublicationPrint {
    fn of(publication: &Publication) -> Self {
        Self {
            oid: publication.oid,
            xmin: publication.xmin,
        }
    }
}

impl TablePrint {
    fn of(relation: &Relation, columns: BTreeMap<String, (i16, u32)>) -> Self {
        Self {
            oid: relation.oid,
            file: relation.file,
            published: relation.published,
            member: relation.member.as_ref().map(|member| member.oid),
            schema_member: relation.schema_member,
            primary_key: relation.primary_key.as_ref().map(|key| key.oid),
            hides_its_key: relation.hides_its_key(),
            columns,
        }
    }

    /// Whether it was published all the time between two moments, as far as
    /// entries tell.
    fn stayed_published(&self, now: &Self) -> bool {
        let same = |then: Option<u32>, now: Option<u32>| then.is_some() && then == now;
        let by_entry = same(self.member, now.member) || same(self.schema_member, now.schema_member);
        let has_entry = |print: &Self| print.member.is_some() || print.schema_member.is_some();
        let by_all = !has_entry(self) && !has_entry(now) && self.published == now.published;
        by_entry || by_all
    }
}

/// A column in use, of a table by its qualified name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlteredColumn {
    pub table: String,
    pub column: String,
}

/// The columns that were altered since, also where they are again what they
/// were and nothing may be missing: records of the time between can have
/// another shape.
#[must_use]
pub fn altered_columns(then: &Fingerprint, now: &Fingerprint) -> Vec<AlteredColumn> {
    let mut altered = Vec::new();
    for (table, then) in &then.tables {
        let now = now.tables.get(table).filter(|now| now.oid == then.oid);
        for (column, print) in &then.columns {
            if now.and_then(|now| now.columns.get(column)) != Some(print) {
                altered.push(AlteredColumn {
                    table: table.clone(),
                    column: column.clone(),
                });
            }
        }
    }
    altered
}

/// What is other than it was.
#[must_use]
pub fn differences(then: &Fingerprint, now: &Fingerprint) -> Vec<Difference> {
    let mut differences = Vec::new();
    if let Some(what) = of_publication(then.publication, now.publication) {
        differences.push(Difference { table: None, what });
    }
    let names: BTreeSet<&String> = then.tables.keys().chain(now.tables.keys()).collect();
    for name in names {
        let whats = match (then.tables.get(name), now.tables.get(name)) {
            (Some(then), Some(now)) => of_table(name, then, now),
            (Some(_), None) => vec![format!("{name} was dropped or renamed")],
            (None, _) => vec![format!("{name} was created")],
        };
        differences.extend(whats.into_iter().map(|what| Difference {
            table: Some(name.clone()),
            what,
        }));
    }
    differences
}

fn of_publication(then: Option<PublicationPrint>, now: Option<PublicationPrint>) -> Option<String> {
    let what = match (then, now) {
        _ if then == now => return None,
        (Some(_), None) => "the publication was dropped",
        (None, _) => "the publication was created",
        (Some(then), Some(now)) if then.oid != now.oid => "the publication was recreated",
        (Some(_), Some(_)) => "the publication was altered",
    };
    Some(what.to_owned())
}

fn of_table(name: &str, then: &TablePrint, now: &TablePrint) -> Vec<String> {
    if then.oid != now.oid {
        return vec![format!("{name} was replaced by another table")];
    }
    let mut whats = Vec::new();
    if !then.stayed_published(now) {
        whats.push(format!("{name} was not published all the time"));
    }
    if then.primary_key != now.primary_key {
        whats.push(format!("the primary key of {name} was replaced"));
    }
    if then.hides_its_key != now.hides_its_key {
        whats.push(format!("the replica identity of {name} was not its key's"));
    }
    for (column, (number, xmin)) in &then.columns {
        match now.columns.get(column) {
            None => whats.push(format!("column {column} of {name} was dropped or renamed")),
            Some((other, _)) if other != number => {
                whats.push(format!("column {column} of {name} was replaced"));
            }
            // Its values are other ones without a change of any row.
            Some((_, other)) if other != xmin && then.file != now.file => {
                whats.push(format!("column {column} of {name} was rewritten"));
            }
            Some(_) => {}
        }
    }
    whats
}
