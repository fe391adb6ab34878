//! The part of a database's catalogue that concerns the pipeline: plain data, read in one
//! statement.

use serde::Deserialize;

/// Catalogue of a database at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Catalogue {
    /// `server_version_num`: 150004 is 15.4.
    pub version: i32,
    pub wal_level: String,
    /// The role that fanout and the connector connect as.
    pub role: String,
    /// Existing relations with the names of the required tables.
    pub relations: Vec<Relation>,
    pub publication: Option<Publication>,
    pub slot: Option<Slot>,
    /// A domain over an enum, if there is one. Debezium's connector fails at its next start,
    /// even if the domain is not in use.
    pub domain_over_enum: Option<String>,
}

/// A table, or another relation with its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Relation {
    pub oid: u32,
    pub name: String,
    /// `pg_class.relkind`.
    pub kind: String,
    /// `pg_class.relpersistence`.
    pub persistence: String,
    /// `pg_class.relreplident`.
    pub identity: String,
    /// The index that serves as replica identity, if any.
    pub identity_index: Option<String>,
    /// `pg_class.relfilenode`, which changes with every rewrite.
    pub file: u32,
    /// Whether the table is a partition of another table.
    pub is_partition: bool,
    pub parents: Vec<String>,
    pub children: Vec<String>,
    /// Whether row-level security applies to the role.
    pub row_security: bool,
    pub columns: Vec<Column>,
    pub primary_key: Option<PrimaryKey>,
    /// Leading columns of the valid, complete indexes.
    pub indexed: Vec<String>,
    /// Whether the publication publishes the table, for any reason.
    pub published: bool,
    /// The table's own entry in the publication.
    pub member: Option<Member>,
    /// The entry of its schema in the publication, if any.
    pub schema_member: Option<u32>,
}

/// A column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    pub number: i16,
    /// Transaction that last altered it.
    pub xmin: u32,
    /// Name of the column's type. For a domain, the name of its innermost base type. Includes the
    /// schema unless it is `pg_catalog`.
    pub base: String,
    /// The column's type for display.
    pub shown: String,
    pub not_null: bool,
    pub generated: bool,
}

/// A primary key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PrimaryKey {
    pub oid: u32,
    pub name: String,
    pub index: String,
    pub columns: Vec<String>,
    pub deferrable: bool,
}

/// A table's own entry in the publication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Changes if the table was removed and added again, or if its filter changed.
    pub oid: u32,
    /// Whether only some of its rows are published.
    pub filter: bool,
    /// The published columns, if not all.
    pub columns: Option<Vec<String>>,
}

/// A publication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a column of pg_publication"
)]
pub struct Publication {
    pub oid: u32,
    /// Transaction that last altered it.
    pub xmin: u32,
    pub all_tables: bool,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
    /// Other tables that the publication names.
    pub others: Vec<NamedMember>,
}

/// A table that the publication names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NamedMember {
    /// Oid of the table.
    pub oid: u32,
    /// Name of the table, quoted and qualified if necessary.
    pub name: String,
}

/// A replication slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Whether a process is reading from the slot.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

impl Catalogue {
    /// Returns the relation with this name, if it exists.
    #[must_use]
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.iter().find(|relation| relation.name == name)
    }
}

/// Returns true if the connector has started to read. From then on, changes that are not
/// published are lost.
#[must_use]
pub fn has_begun(catalogue: &Catalogue) -> bool {
    catalogue.slot.is_some()
}

impl Relation {
    /// Returns the column with this name, if it exists.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Returns true if the replica identity is an index other than the primary key's. The old
    /// row of a delete then lacks the key.
    #[must_use]
    pub fn hides_its_key(&self) -> bool {
        let key = self.primary_key.as_ref().map(|key| &key.index);
        self.identity == "i" && self.identity_index.as_ref() != key
    }
}

impl Publication {
    /// Returns the names of the operations that the publication does not publish.
    #[must_use]
    pub fn missing_operations(&self) -> Vec<&'static str> {
        let all = [
            ("insert", self.insert),
            ("update", self.update),
            ("delete", self.delete),
            ("truncate", self.truncate),
        ];
        let missing = all.into_iter().filter(|(_, published)| !published);
        missing.map(|(name, _)| name).collect()
    }
}
