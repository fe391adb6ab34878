//! What a database says of itself, as far as it concerns the pipeline: plain
//! data, read in one statement.

use serde::Deserialize;

/// A database as it was at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Catalogue {
    /// `server_version_num`: 150004 is 15.4.
    pub version: i32,
    pub wal_level: String,
    /// The role that fanout and the connector connect as.
    pub role: String,
    /// Of the tables that matter, those that are there.
    pub relations: Vec<Relation>,
    pub publication: Option<Publication>,
    pub slot: Option<Slot>,
    /// A domain over an enum, where there is one: Debezium's connector fails at
    /// its next start, whatever the domain is used for.
    pub domain_over_enum: Option<String>,
}

/// A table, or what has the name of one.
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
    /// The index of the replica identity, where it is one.
    pub identity_index: Option<String>,
    /// `pg_class.relfilenode`: another one after every rewrite.
    pub file: u32,
    /// It is a partition of another table.
    pub is_partition: bool,
    pub parents: Vec<String>,
    pub children: Vec<String>,
    /// Row-level security applies to the role.
    pub row_security: bool,
    pub columns: Vec<Column>,
    pub primary_key: Option<PrimaryKey>,
    /// Columns that a valid, complete index begins with.
    pub indexed: Vec<String>,
    /// The publication publishes it, for whatever reason.
    pub published: bool,
    /// The publication names it.
    pub member: Option<Member>,
    /// The entry of its schema in the publication, where it has one.
    pub schema_member: Option<u32>,
}

/// A column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    pub number: i16,
    /// Transaction that last altered it.
    pub xmin: u32,
    /// Name of its type, of a domain its innermost base type; with its schema
    /// where that is not `pg_catalog`.
    pub base: String,
    /// Its type as people write it.
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
    /// Another one when the table was taken out and put back, or its filter
    /// changed.
    pub oid: u32,
    /// Only some of its rows are published.
    pub filter: bool,
    /// Only these of its columns are.
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
    /// Tables that it names besides those that matter.
    pub others: Vec<NamedMember>,
}

/// A table that the publication names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NamedMember {
    /// Of the table.
    pub oid: u32,
    /// Quoted and qualified where that is needed.
    pub name: String,
}

/// A replication slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Somebody reads from it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

impl Catalogue {
    /// The relation of this name, where there is one.
    #[must_use]
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.iter().find(|one| one.name == name)
    }
}

/// Whether the connector has begun to read: from then on a change that is not
/// published is a change that is lost.
#[must_use]
pub fn has_begun(catalogue: &Catalogue) -> bool {
    catalogue.slot.is_some()
}

impl Relation {
    /// The column of this name, where there is one.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|one| one.name == name)
    }

    /// The replica identity is an index other than the primary key's: the old
    /// row of a delete then does not have the key.
    #[must_use]
    pub fn hides_its_key(&self) -> bool {
        let key = self.primary_key.as_ref().map(|key| &key.index);
        self.identity == "i" && self.identity_index.as_ref() != key
    }
}

impl Publication {
    /// Names of the operations that it does not publish.
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
