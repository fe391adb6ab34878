//! The comparison of a database with the requirements.

use super::{
    Catalogue, Code, Expected, ExpectedColumn, ExpectedTable, Finding, Fingerprint, HELPERS,
    NamedMember, Relation, SCHEMA, Severity, has_begun, statement::quoted,
};

/// The oldest supported Postgres version: the first with logical messages in its replication
/// protocol.
const OLDEST: i32 = 140_000;

/// The command that repairs a publication and everything else that fanout creates.
const UP: &str = "fanout up";

/// Returns the current problems of the source, the worst first. Also reports a required table,
/// the publication or the slot as missing if it does not exist yet.
#[must_use]
pub fn check(catalogue: &Catalogue, expected: &Expected) -> Vec<Finding> {
    let mut findings = check_server(catalogue);
    for table in &expected.tables {
        match catalogue.relation(&table.name) {
            Some(relation) => {
                let mut problems = check_relation(relation, table);
                if catalogue.publication.is_some() {
                    problems.extend(check_membership(relation, &table.qualified(), expected));
                }
                let problems = problems.into_iter();
                findings.extend(problems.map(|finding| finding.of_table(table.qualified())));
            }
            None => findings.push(missing_table(table, has_begun(catalogue))),
        }
    }
    findings.extend(check_helpers(catalogue, expected));
    findings.extend(check_publication(catalogue, expected));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Returns tables that were the required ones and are now published under another name.
/// Debezium writes their rows to the topic of the table that has the name now \[measured with
/// 3.6.3\].
#[must_use]
pub fn strays<'c>(
    catalogue: &'c Catalogue,
    expected: &Expected,
    history: &Fingerprint,
) -> Vec<(String, &'c NamedMember)> {
    let publication = catalogue.publication.iter();
    let others = publication.flat_map(|publication| &publication.others);
    let former_name = |member: &NamedMember| {
        let tables = expected.tables.iter().map(ExpectedTable::qualified);
        tables.into_iter().find(|name| {
            let known = history.tables.get(name);
            known.is_some_and(|known| known.oid == member.oid)
        })
    };
    others
        .filter_map(|member| Some((former_name(member)?, member)))
        .collect()
}

fn check_server(catalogue: &Catalogue) -> Vec<Finding> {
    let mut findings = Vec::new();
    if catalogue.version < OLDEST {
        let (major, minor) = (catalogue.version / 10_000, catalogue.version % 10_000);
        findings.push(Finding::new(
            Code::PostgresVersion,
            Severity::Unsupported,
            format!("postgres is version {major}.{minor}, but 14 is the oldest supported version"),
            "upgrade postgres to version 14 or later",
        ));
    }
    if catalogue.wal_level != "logical" {
        findings.push(Finding::new(
            Code::WalLevel,
            Severity::Unsupported,
            format!("wal_level of postgres is {}", catalogue.wal_level),
            "ALTER SYSTEM SET wal_level = 'logical', and restart postgres",
        ));
    }
    if let Some(domain) = &catalogue.domain_over_enum {
        // A running connector continues until it is restarted.
        let severity = if has_begun(catalogue) {
            Severity::Impaired
        } else {
            Severity::Unsupported
        };
        findings.push(Finding::new(
            Code::DomainOverEnum,
            severity,
            format!(
                "domain {domain} is over an enum; the connector cannot start with such a domain"
            ),
            format!("DROP DOMAIN {domain}, or redefine it over text; then {UP}"),
        ));
    }
    findings
}

fn missing_table(table: &ExpectedTable, begun: bool) -> Finding {
    let name = table.qualified();
    let remedy = if begun {
        format!("rename or restore {name}; or run fanout up --yes, which creates an empty table")
    } else {
        UP.to_owned()
    };
    let what = format!("table {name} does not exist");
    Finding::new(Code::TableMissing, Severity::Unsupported, what, remedy).of_table(name)
}

fn unsupported(code: Code, what: String, remedy: String) -> Finding {
    Finding::new(code, Severity::Unsupported, what, remedy)
}

/// Returns the problems of a table, except those of the publication.
fn check_relation(relation: &Relation, table: &ExpectedTable) -> Vec<Finding> {
    let mut findings = check_shape(relation, table);
    if relation.kind != "r" {
        // The other checks apply only to ordinary tables.
        return findings;
    }
    findings.extend(check_key(relation, table));
    let columns = table.columns.iter();
    findings.extend(columns.filter_map(|column| {
        let found = check_column(relation, table, column)?;
        Some(found.of_column(&column.name))
    }));
    findings.extend(check_identity(relation, &table.qualified()));
    findings
}

fn check_shape(relation: &Relation, table: &ExpectedTable) -> Vec<Finding> {
    let name = table.qualified();
    let mut findings = Vec::new();
    if relation.kind != "r" {
        findings.push(unsupported(
            Code::TableKind,
            format!(
                "{name} is {}, not an ordinary table",
                describe_kind(&relation.kind)
            ),
            format!("recreate {name} as an ordinary table, then {UP}"),
        ));
        return findings;
    }
    if relation.is_partition {
        let parent = relation.parents.join(", ");
        findings.push(unsupported(
            Code::TablePartition,
            format!("{name} is a partition of {parent}"),
            format!("ALTER TABLE {parent} DETACH PARTITION {name}"),
        ));
    } else if let Some(parent) = relation.parents.first() {
        findings.push(unsupported(
            Code::TableInherits,
            format!("{name} inherits from {parent}"),
            format!("ALTER TABLE {name} NO INHERIT {parent}"),
        ));
    }
    if let Some(child) = relation.children.first() {
        findings.push(unsupported(
            Code::TableInherits,
            format!("{child} inherits from {name}, so its rows are rows of {name} too"),
            format!("ALTER TABLE {child} NO INHERIT {name}"),
        ));
    }
    if relation.persistence != "p" {
        findings.push(unsupported(
            Code::TableUnlogged,
            format!("{name} is unlogged: its changes are not written to the WAL"),
            format!("ALTER TABLE {name} SET LOGGED"),
        ));
    }
    if relation.row_security {
        findings.push(unsupported(
            Code::RowSecurity,
            format!("row-level security of {name} applies to the role that fanout connects as"),
            format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, or use a role with BYPASSRLS"),
        ));
    }
    findings
}

/// Describes a `pg_class.relkind`.
fn describe_kind(letter: &str) -> &'static str {
    match letter {
        "p" => "a partitioned table",
        "f" => "a foreign table",
        "v" => "a view",
        "m" => "a materialized view",
        "S" => "a sequence",
        "i" | "I" => "an index",
        "c" => "a composite type",
        _ => "something else",
    }
}

fn check_key(relation: &Relation, table: &ExpectedTable) -> Option<Finding> {
    let (name, wanted) = (table.qualified(), quoted(&table.key));
    let Some(found) = &relation.primary_key else {
        return Some(unsupported(
            Code::PrimaryKey,
            format!("{name} has no primary key, expected ({})", table.key),
            format!("ALTER TABLE {name} ADD PRIMARY KEY ({wanted})"),
        ));
    };
    let constraint = quoted(&found.name);
    let replace =
        format!("ALTER TABLE {name} DROP CONSTRAINT {constraint}, ADD PRIMARY KEY ({wanted})");
    if found.columns != [table.key.as_str()] {
        let columns = found.columns.join(", ");
        return Some(unsupported(
            Code::PrimaryKey,
            format!(
                "the primary key of {name} is ({columns}), not ({})",
                table.key
            ),
            replace,
        ));
    }
    found.deferrable.then(|| {
        unsupported(
            Code::PrimaryKeyDeferrable,
            format!("the primary key of {name} is deferrable: changes of keys arrive unordered"),
            replace,
        )
    })
}

fn check_column(
    relation: &Relation,
    table: &ExpectedTable,
    expected: &ExpectedColumn,
) -> Option<Finding> {
    let (name, column) = (table.qualified(), quoted(&expected.name));
    let alter = format!("ALTER TABLE {name} ALTER COLUMN {column}");
    let wanted = expected.kind.sql();
    let Some(found) = relation.column(&expected.name) else {
        return Some(unsupported(
            Code::ColumnMissing,
            format!("{name} has no column {}", expected.name),
            format!(
                "restore the column under the name that this version requires: \
                 ALTER TABLE {name} RENAME COLUMN … TO {column}"
            ),
        ));
    };
    if !expected.kind.names().contains(&found.base.as_str()) {
        return Some(unsupported(
            Code::ColumnType,
            format!(
                "column {} of {name} has type {}, expected {wanted}",
                expected.name, found.shown
            ),
            format!("{alter} TYPE {wanted}"),
        ));
    }
    if found.generated {
        return Some(unsupported(
            Code::ColumnGenerated,
            format!(
                "column {} of {name} is generated, and changes do not include generated columns",
                expected.name
            ),
            format!("{alter} DROP EXPRESSION"),
        ));
    }
    let nullable = expected.required && !found.not_null;
    nullable.then(|| {
        Finding::new(
            Code::ColumnNullable,
            Severity::Impaired,
            format!(
                "column {} of {name} may be NULL, and rows with NULL become dead letters",
                expected.name
            ),
            format!("{alter} SET NOT NULL"),
        )
    })
}

/// Checks the replica identity. Only `FULL` includes the complete old row.
fn check_identity(relation: &Relation, name: &str) -> Option<Finding> {
    let severity = if relation.hides_its_key() {
        Severity::Incomplete
    } else {
        Severity::Impaired
    };
    let (found, effect) = match relation.identity.as_str() {
        "f" => return None,
        "d" => (
            "DEFAULT",
            "updates do not include unchanged values that are stored out of line",
        ),
        "n" => ("NOTHING", "postgres refuses updates and deletes"),
        _ if severity == Severity::Incomplete => {
            ("an index other than its primary key's", "deletes are lost")
        }
        _ => (
            "an index",
            "updates do not include unchanged values that are stored out of line",
        ),
    };
    Some(Finding::new(
        Code::ReplicaIdentity,
        severity,
        format!("replica identity of {name} is {found}, not FULL: {effect}"),
        format!("{UP}, or ALTER TABLE {name} REPLICA IDENTITY FULL"),
    ))
}

/// Returns the parts of a table's changes that the publication excludes.
fn check_membership(relation: &Relation, name: &str, expected: &Expected) -> Vec<Finding> {
    let publication = &expected.publication;
    let incomplete = |code, what| Finding::new(code, Severity::Incomplete, what, UP);
    if !relation.published && relation.kind == "r" {
        let what = format!("publication {publication} does not include {name}");
        return vec![incomplete(Code::PublicationTable, what)];
    }
    let mut findings = Vec::new();
    let Some(member) = &relation.member else {
        return findings;
    };
    if member.filter {
        let what = format!("publication {publication} has a row filter on {name}");
        findings.push(incomplete(Code::PublicationRowFilter, what));
    }
    if let Some(columns) = &member.columns {
        let what = format!(
            "publication {publication} publishes only some columns of {name}: {}",
            columns.join(", ")
        );
        findings.push(incomplete(Code::PublicationColumns, what));
    }
    findings
}

/// Checks Debezium's tables, without which snapshots and heartbeats do not work.
fn check_helpers(catalogue: &Catalogue, expected: &Expected) -> Vec<Finding> {
    let impaired = |code, what| Finding::new(code, Severity::Impaired, what, UP);
    let check_helper = |name: &str| {
        let qualified = format!("{SCHEMA}.{name}");
        let Some(relation) = catalogue.relation(name) else {
            let what = format!("table {qualified} does not exist: the connector needs it");
            return Some(impaired(Code::HelperMissing, what));
        };
        let member = relation.member.as_ref();
        let is_complete = member.is_none_or(|member| !member.filter && member.columns.is_none());
        if relation.published && is_complete || catalogue.publication.is_none() {
            return None;
        }
        let publication = &expected.publication;
        let what = format!(
            "publication {publication} does not include all of {qualified}, which the connector \
             needs"
        );
        Some(impaired(Code::PublicationTable, what))
    };
    HELPERS
        .iter()
        .filter_map(|name| check_helper(name))
        .collect()
}

fn check_publication(catalogue: &Catalogue, expected: &Expected) -> Option<Finding> {
    let name = &expected.publication;
    let (code, what) = match &catalogue.publication {
        None => (
            Code::PublicationMissing,
            format!("publication {name} does not exist"),
        ),
        Some(found) => {
            let missing = found.missing_operations();
            if missing.is_empty() {
                return None;
            }
            let what = format!("publication {name} does not publish {}", missing.join(", "));
            (Code::PublicationOperations, what)
        }
    };
    Some(Finding::new(code, Severity::Incomplete, what, UP))
}
