//! The SQL statements that a database still needs before the connector can follow it, computed
//! from its catalogue.

use serde::Serialize;

use super::{
    Catalogue, Code, Expected, ExpectedTable, HELPERS, NamedMember, Publication, Relation, SCHEMA,
};
use crate::assets;

/// Operations that must be published.
const OPERATIONS: &str = "insert, update, delete, truncate";

/// A statement and its purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    pub sql: String,
    /// Qualified name of the table that the statement locks.
    pub table: Option<String>,
    /// The problem that the statement repairs. `None` if it creates an object for the first
    /// time.
    pub repairs: Option<Code>,
    /// Whether changes have been lost up to now.
    pub recovers: bool,
}

impl Statement {
    fn new(sql: String) -> Self {
        Self {
            sql,
            table: None,
            repairs: None,
            recovers: false,
        }
    }

    fn on(self, table: String) -> Self {
        let table = Some(table);
        Self { table, ..self }
    }

    /// Marks the statement as a repair if the connector has `begun` to read, and as a recovery
    /// if changes were `lost`.
    fn repairing(self, code: Code, begun: bool, lost: bool) -> Self {
        Self {
            repairs: begun.then_some(code),
            recovers: begun && lost,
            ..self
        }
    }
}

/// Returns a name as a quoted identifier.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the required statements in the order of execution. `is_ours` means that fanout
/// manages the server; indexes are then also created on existing tables.
#[must_use]
pub fn statements(catalogue: &Catalogue, expected: &Expected, is_ours: bool) -> Vec<Statement> {
    let begun = super::has_begun(catalogue);
    let mut statements = Vec::new();
    for table in &expected.tables {
        let found = catalogue.relation(&table.name);
        if found.is_none() {
            let created = create(&table.name).into_iter();
            statements.extend(
                created.map(|statement| statement.repairing(Code::TableMissing, begun, true)),
            );
        }
        if is_ours || found.is_none() {
            statements.extend(indexes(table, found));
        }
    }
    for helper in HELPERS {
        if catalogue.relation(helper).is_none() {
            let created = create(helper).into_iter();
            statements.extend(
                created.map(|statement| statement.repairing(Code::HelperMissing, begun, false)),
            );
        }
    }
    // The replica identity comes before the publication, because Postgres refuses updates of a
    // published table without one.
    for table in &expected.tables {
        statements.extend(identity(table, catalogue.relation(&table.name), begun));
    }
    match &catalogue.publication {
        None => statements.push(create_publication(expected).repairing(
            Code::PublicationMissing,
            begun,
            true,
        )),
        Some(found) => {
            let altered = alter_publication(catalogue, expected, found).into_iter();
            statements.extend(altered);
        }
    }
    statements
}

/// Returns the statement in the file that is named after the table.
fn create(table: &str) -> Option<Statement> {
    let text = assets::text(&format!("sql/postgres/{table}.sql"))?;
    let lines = text.lines().filter(|line| !line.starts_with("--"));
    let sql = lines.collect::<Vec<_>>().join("\n");
    let sql = sql.trim().trim_end_matches(';').to_owned();
    Some(Statement::new(sql).on(format!("{SCHEMA}.{table}")))
}

fn indexes<'t>(
    table: &'t ExpectedTable,
    found: Option<&'t Relation>,
) -> impl Iterator<Item = Statement> {
    let is_indexed =
        move |column: &String| found.is_some_and(|relation| relation.indexed.contains(column));
    let missing = table
        .indexed
        .iter()
        .filter(move |column| !is_indexed(column));
    missing.map(|column| {
        let sql = format!(
            "CREATE INDEX IF NOT EXISTS {}_{column}_idx ON {} ({column})",
            table.name,
            table.qualified(),
        );
        Statement::new(sql).on(table.qualified())
    })
}

fn identity(table: &ExpectedTable, found: Option<&Relation>, begun: bool) -> Option<Statement> {
    if found.is_some_and(|relation| relation.identity == "f") {
        return None;
    }
    let name = table.qualified();
    let sql = format!("ALTER TABLE {name} REPLICA IDENTITY FULL");
    let lost = found.is_some_and(Relation::hides_its_key);
    let existed = begun && found.is_some();
    Some(
        Statement::new(sql)
            .on(name)
            .repairing(Code::ReplicaIdentity, existed, lost),
    )
}

fn create_publication(expected: &Expected) -> Statement {
    let tables: Vec<String> = expected
        .relations()
        .iter()
        .map(|name| format!("{SCHEMA}.{name}"))
        .collect();
    Statement::new(format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = '{OPERATIONS}')",
        quoted(&expected.publication),
        tables.join(", ")
    ))
}

fn alter_publication(
    catalogue: &Catalogue,
    expected: &Expected,
    found: &Publication,
) -> Vec<Statement> {
    let begun = super::has_begun(catalogue);
    let name = quoted(&expected.publication);
    let mut statements = Vec::new();
    if !found.missing_operations().is_empty() {
        let sql = format!("ALTER PUBLICATION {name} SET (publish = '{OPERATIONS}')");
        let code = Code::PublicationOperations;
        statements.push(Statement::new(sql).repairing(code, begun, true));
    }
    for table in expected.relations() {
        let relation = catalogue.relation(table);
        let qualified = format!("{SCHEMA}.{table}");
        let add = format!("ALTER PUBLICATION {name} ADD TABLE {qualified}");
        let drop = format!("ALTER PUBLICATION {name} DROP TABLE {qualified}");
        let (sql, code) = match relation.map(|relation| (relation.published, &relation.member)) {
            Some((true, Some(member))) if member.filter => {
                (format!("{drop}; {add}"), Code::PublicationRowFilter)
            }
            Some((true, Some(member))) if member.columns.is_some() => {
                (format!("{drop}; {add}"), Code::PublicationColumns)
            }
            Some((true, _)) => continue,
            None if found.all_tables => continue,
            _ => (add, Code::PublicationTable),
        };
        let existed = begun && relation.is_some();
        let lost = !HELPERS.contains(&table);
        let statement = Statement::new(sql).on(qualified);
        statements.push(statement.repairing(code, existed, lost));
    }
    statements
}

/// Returns the statement that removes a stray table from the publication.
#[must_use]
pub fn drop_stray(publication: &str, stray: &NamedMember) -> Statement {
    let (publication, table) = (quoted(publication), &stray.name);
    let sql = format!("ALTER PUBLICATION {publication} DROP TABLE {table}");
    Statement::new(sql).repairing(Code::PublicationStray, true, true)
}
