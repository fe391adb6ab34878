//! Detection of external changes to the source: a fingerprint of everything that determines
//! which changes reach the log, stored when history was last known to be complete. Each part
//! changes with an alteration and stays changed if the alteration is reverted.
//!
//! The fingerprint excludes the effects of maintenance: `VACUUM`, including `FULL`, `ANALYZE`,
//! `CLUSTER`, `REINDEX`, altered statistics or defaults, columns that are not in use, and other
//! tables in the publication. A restored dump, or the new cluster after `pg_upgrade`, is a
//! different source.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Catalogue, Expected, Publication, Relation};

/// Everything that determines which changes reach the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub publication: Option<PublicationPrint>,
    /// Tables by qualified name.
    pub tables: BTreeMap<String, TablePrint>,
    /// The notification of the start of the connector's latest initial snapshot, if known. Rows
    /// that were deleted before a snapshot are missing from it.
    pub snapshot: Option<String>,
}

/// Fingerprint of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationPrint {
    pub oid: u32,
    pub xmin: u32,
}

/// Fingerprint of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePrint {
    pub oid: u32,
    pub file: u32,
    /// Whether the table is published, by its own entry or otherwise.
    pub published: bool,
    pub member: Option<u32>,
    pub schema_member: Option<u32>,
    pub primary_key: Option<u32>,
    /// Whether deletes lack the key.
    pub hides_its_key: bool,
    /// For each column in use: its number, and the transaction that last altered it.
    pub columns: BTreeMap<String, (i16, u32)>,
}

/// A difference between two fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Qualified name of the table concerned. `None` means all tables.
    pub table: Option<String>,
    /// Description of the change, as the end of a sentence about the time since the baseline.
    pub what: String,
}

impl Fingerprint {
    /// Returns the fingerprint of a database and of the connector's latest initial snapshot.
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

    /// Returns true if the table was published at all times between two fingerprints, as far as
    /// the entries show.
    fn stayed_published(&self, now: &Self) -> bool {
        let is_same = |then: Option<u32>, now: Option<u32>| then.is_some() && then == now;
        let by_entry =
            is_same(self.member, now.member) || is_same(self.schema_member, now.schema_member);
        let has_entry = |print: &Self| print.member.is_some() || print.schema_member.is_some();
        let by_all = !has_entry(self) && !has_entry(now) && self.published == now.published;
        by_entry || by_all
    }
}

/// A column in use, with the qualified name of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlteredColumn {
    pub table: String,
    pub column: String,
}

/// Returns the columns that were altered in the meantime. Includes reverted alterations that
/// lost nothing, because records from the time in between may have another shape.
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

/// Returns the differences between two fingerprints.
#[must_use]
pub fn differences(then: &Fingerprint, now: &Fingerprint) -> Vec<Difference> {
    let mut differences = Vec::new();
    if let Some(what) = publication_difference(then.publication, now.publication) {
        differences.push(Difference { table: None, what });
    }
    let names: BTreeSet<&String> = then.tables.keys().chain(now.tables.keys()).collect();
    for name in names {
        let descriptions = match (then.tables.get(name), now.tables.get(name)) {
            (Some(then), Some(now)) => table_differences(name, then, now),
            (Some(_), None) => vec![format!("{name} was dropped or renamed")],
            (None, _) => vec![format!("{name} was created")],
        };
        differences.extend(descriptions.into_iter().map(|what| Difference {
            table: Some(name.clone()),
            what,
        }));
    }
    differences
}

fn publication_difference(
    then: Option<PublicationPrint>,
    now: Option<PublicationPrint>,
) -> Option<String> {
    let what = match (then, now) {
        _ if then == now => return None,
        (Some(_), None) => "the publication was dropped",
        (None, _) => "the publication was created",
        (Some(then), Some(now)) if then.oid != now.oid => "the publication was recreated",
        (Some(_), Some(_)) => "the publication was altered",
    };
    Some(what.to_owned())
}

fn table_differences(name: &str, then: &TablePrint, now: &TablePrint) -> Vec<String> {
    if then.oid != now.oid {
        return vec![format!("{name} was replaced by another table")];
    }
    let mut descriptions = Vec::new();
    if !then.stayed_published(now) {
        descriptions.push(format!("{name} was not published at all times"));
    }
    if then.primary_key != now.primary_key {
        descriptions.push(format!("the primary key of {name} was replaced"));
    }
    if then.hides_its_key != now.hides_its_key {
        descriptions.push(format!("the replica identity of {name} was not its key's"));
    }
    for (column, (number, xmin)) in &then.columns {
        match now.columns.get(column) {
            None => descriptions.push(format!("column {column} of {name} was dropped or renamed")),
            Some((found, _)) if found != number => {
                descriptions.push(format!("column {column} of {name} was replaced"));
            }
            // A rewrite changes the values without a change of any row.
            Some((_, found)) if found != xmin && then.file != now.file => {
                descriptions.push(format!("column {column} of {name} was rewritten"));
            }
            Some(_) => {}
        }
    }
    descriptions
}
