//! What fanout owns in ClickHouse: its tables and its view, as defined by
//! `sql/clickhouse/`. `up` executes the statements that would change something.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::{
    assets::{self, Asset},
    config::{Settings, project::Project},
    connections::{Connections, clickhouse},
    failure::{Failure, Kind},
    stack::owned::{Change, ExternalError, Object, Owned, OwnedError, Removal, Removing, Upcoming},
    text::template::{TemplateError, Values, render},
};

const SERVICE: &str = "clickhouse";

/// The objects, dependent ones first: kind, name, and columns that only fanout's
/// own object has. The name alone proves nothing: a table `content` may belong
/// to somebody else.
const OBJECTS: [(&str, &str, &[&str]); 4] = [
    (
        "VIEW",
        "engagement_enriched",
        &[
            "event_id",
            "engagement_seconds",
            "engagement_pct",
            "processed_at",
        ],
    ),
    (
        "TABLE",
        "engagement_enriched_storage",
        &[
            "event_id",
            "_version",
            "_deleted",
            "_partition",
            "_offset",
            "_content_offset",
        ],
    ),
    (
        "TABLE",
        "content",
        &[
            "id",
            "title",
            "length_seconds",
            "processed_at",
            "_version",
            "_deleted",
        ],
    ),
    (
        "TABLE",
        "fanout_topics",
        &["topic", "topic_id", "partitions", "generation"],
    ),
];

/// The objects in ClickHouse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClickHouseObjects;

impl Owned for ClickHouseObjects {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn removal(&self) -> Removal {
        Removal::OneByOne
    }

    fn objects<'a>(
        &'a self,
        connections: &'a Connections,
        _project: &'a Project,
    ) -> BoxFuture<'a, Result<Vec<Object>, OwnedError>> {
        Box::pin(objects(connections))
    }

    fn changes<'a>(&'a self, up: Upcoming<'a>) -> BoxFuture<'a, Result<Vec<Change>, OwnedError>> {
        Box::pin(changes(up))
    }

    fn remove<'a>(
        &'a self,
        objects: &'a [Object],
        reset: Removing<'a>,
    ) -> BoxFuture<'a, Result<(), OwnedError>> {
        Box::pin(remove(objects, reset.connections))
    }
}

fn external(error: clickhouse::ClickHouseError) -> OwnedError {
    ExternalError::server(SERVICE, error).into()
}

/// Returns the client of an external server.
fn external_server(connections: &Connections) -> Result<clickhouse::Server, ExternalError> {
    Ok(connections.clickhouse.server()?)
}

async fn objects(connections: &Connections) -> Result<Vec<Object>, OwnedError> {
    let settings = connections.settings();
    let database = &settings.clickhouse.database;
    let server = external_server(connections)?;
    let existing = server.columns(database, patience(settings)).await;
    let existing = existing.map_err(external)?;
    let own = OBJECTS.into_iter().filter(|(_, name, columns)| {
        let found = existing.get(*name);
        found.is_some_and(|found| columns.iter().all(|column| found.contains(*column)))
    });
    let objects = own.map(|(kind, name, _)| {
        let name = format!("{database}.{name}");
        Object::new(SERVICE, kind, name)
    });
    Ok(objects.collect())
}

async fn changes(up: Upcoming<'_>) -> Result<Vec<Change>, OwnedError> {
    let needed = needed(up.connections).await.map_err(OwnedError::new)?;
    let changes = needed
        .into_iter()
        .map(|(_, statement)| Change::new(statement));
    Ok(changes.collect())
}

async fn remove(objects: &[Object], connections: &Connections) -> Result<(), OwnedError> {
    let patience = patience(connections.settings());
    for object in objects {
        let server = external_server(connections)?;
        let statement = format!("DROP {} IF EXISTS {}", object.kind, object.name);
        server
            .execute(&statement, patience)
            .await
            .map_err(external)?;
    }
    Ok(())
}

/// Error while creating or comparing the objects.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("{file} cannot be applied to clickhouse")]
    ClickHouse {
        file: &'static str,
        #[source]
        source: clickhouse::ClickHouseError,
    },
    #[error("{server} did not take its tables within {seconds} s")]
    TooLong { server: &'static str, seconds: u64 },
    #[error(transparent)]
    Url(#[from] clickhouse::InvalidUrl),
    #[error("{file} cannot be filled in")]
    Template {
        file: &'static str,
        #[source]
        source: TemplateError,
    },
}

impl Failure for ObjectsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url(_) => Kind::Usage,
            Self::TooLong { .. } => Kind::NotReady,
            _ => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ClickHouse { .. } => "clickhouse_objects",
            Self::Url(_) => "clickhouse_url",
            Self::Template { .. } => "sql_template",
            Self::TooLong { .. } => "objects_not_ready",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::ClickHouse { .. } => "fanout logs clickhouse".to_owned(),
            Self::TooLong { server, .. } => format!("fanout logs {server}, then fanout up"),
            Self::Url(_) | Self::Template { .. } => "fanout config show".to_owned(),
        })
    }
}

/// The effect of a statement.
#[derive(Debug, PartialEq, Eq)]
enum Makes<'s> {
    Database,
    Table(&'s str),
    View {
        name: &'s str,
        select: &'s str,
    },
    Columns {
        table: &'s str,
        columns: Vec<&'s str>,
    },
    /// The table no longer has these columns.
    NoColumns {
        table: &'s str,
        columns: Vec<&'s str>,
    },
}

/// Returns the files of `sql/clickhouse/` with their statements, without comments.
fn statements(settings: &Settings) -> Result<Vec<(&'static str, String)>, ObjectsError> {
    let database = settings.clickhouse.database.clone();
    let values = Values::from([("database".to_owned(), database)]);
    let rendered = |asset: &'static Asset| {
        let file = asset.path;
        let rendered = render(asset.text, &values);
        let text = rendered.map_err(|source| ObjectsError::Template { file, source })?;
        let text = text.text;
        let lines = text.lines().filter(|line| !line.starts_with("--"));
        Ok((file, lines.collect::<Vec<_>>().join("\n")))
    };
    assets::under("sql/clickhouse/").map(rendered).collect()
}

/// Returns the effect of a statement, or `None` if it is unknown.
fn makes<'s>(statement: &'s str, database: &str) -> Option<Makes<'s>> {
    let own = |text: &'s str| text.strip_prefix(database)?.strip_prefix('.');
    let until_space = |text: &'s str| text.split_whitespace().next();
    if statement.starts_with("CREATE DATABASE IF NOT EXISTS ") {
        return Some(Makes::Database);
    }
    if let Some(rest) = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ") {
        return own(until_space(rest)?).map(Makes::Table);
    }
    if let Some(rest) = statement.strip_prefix("CREATE OR REPLACE VIEW ") {
        let (name, select) = rest.split_once(" AS\n")?;
        let name = own(name)?;
        return Some(Makes::View { name, select });
    }
    let rest = statement.strip_prefix("ALTER TABLE ")?;
    let table = own(until_space(rest)?)?;
    let named = |clause: &str| -> Vec<&'s str> {
        let named = rest.split(clause).skip(1).filter_map(until_space);
        named.map(|name| name.trim_end_matches(',')).collect()
    };
    let columns = named("DROP COLUMN IF EXISTS ");
    if !columns.is_empty() {
        return Some(Makes::NoColumns { table, columns });
    }
    let columns = named("ADD COLUMN IF NOT EXISTS ");
    Some(Makes::Columns { table, columns })
}

/// Returns the statements of `sql/clickhouse/` that would change something, each
/// with its file.
///
/// # Errors
/// If ClickHouse does not respond within its `request_timeout_ms`.
pub async fn needed(
    connections: &Connections,
) -> Result<Vec<(&'static str, String)>, ObjectsError> {
    let (settings, server) = (connections.settings(), connections.clickhouse.server()?);
    let patience = patience(settings);
    let database = settings.clickhouse.database.as_str();
    let on = |source| ObjectsError::ClickHouse {
        file: "sql/clickhouse",
        source,
    };
    let has_database = server.has_database(database, patience);
    let has_database = has_database.await.map_err(on)?;
    let there = server.columns(database, patience);
    let there = there.await.map_err(on)?;
    let mut needed = Vec::new();
    for (file, statement) in statements(settings)? {
        let is_there = match makes(&statement, database) {
            Some(Makes::Database) => has_database,
            Some(Makes::Table(name)) => there.contains_key(name),
            Some(Makes::View { name, select }) => {
                let place = (database, name);
                let selects = server.view_selects(place, select, patience);
                there.contains_key(name) && selects.await.map_err(on)?
            }
            // A missing table will be created with them.
            Some(Makes::Columns { table, columns }) => there
                .get(table)
                .is_none_or(|found| columns.iter().all(|column| found.contains(*column))),
            // A missing table will be created without them.
            Some(Makes::NoColumns { table, columns }) => there
                .get(table)
                .is_none_or(|found| !columns.iter().any(|column| found.contains(*column))),
            None => false,
        };
        if !is_there {
            needed.push((file, statement));
        }
    }
    Ok(needed)
}

/// Executes statements that are [`needed`].
///
/// # Errors
/// If ClickHouse refuses one, or does not execute it within its
/// `request_timeout_ms`.
pub async fn apply(
    connections: &Connections,
    needed: &[(&'static str, String)],
) -> Result<(), ObjectsError> {
    let (settings, server) = (connections.settings(), connections.clickhouse.server()?);
    for (file, statement) in needed {
        server
            .execute(statement, patience(settings))
            .await
            .map_err(|source| ObjectsError::ClickHouse { file, source })?;
    }
    Ok(())
}

/// Executes the statements of `sql/clickhouse/` that would change something.
///
/// # Errors
/// See [`needed`] and [`apply`].
pub async fn clickhouse(connections: &Connections) -> Result<(), ObjectsError> {
    let needed = needed(connections).await?;
    apply(connections, &needed).await
}

fn patience(settings: &Settings) -> Duration {
    Duration::from_millis(settings.clickhouse.request_timeout_ms)
}

/// Bounds `work` on a server, whose statements may wait for the locks of others.
///
/// # Errors
/// If `work` fails or takes longer than `timeout`.
pub async fn in_time<T, E>(
    server: &'static str,
    timeout: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E>
where
    E: From<ObjectsError>,
{
    let seconds = timeout.as_secs();
    let done = tokio::time::timeout(timeout, work).await;
    done.unwrap_or_else(|_| Err(ObjectsError::TooLong { server, seconds }.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_what_every_statement_makes() {
        let settings = Settings::default();
        let statements = statements(&settings).expect("filled in");
        assert!(!statements.is_empty());
        for (file, text) in statements {
            assert!(!text.contains("{{"), "{file}: {text}");
            match makes(&text, &settings.clickhouse.database) {
                None => panic!("{file}: not known what this makes: {text}"),
                Some(Makes::Columns { columns, .. }) => assert!(!columns.is_empty(), "{file}"),
                Some(_) => {}
            }
        }
    }

    #[test]
    fn a_statement_says_what_it_makes() {
        let view = "CREATE OR REPLACE VIEW db.v AS\nSELECT 1";
        let (name, select) = ("v", "SELECT 1");
        assert_eq!(makes(view, "db"), Some(Makes::View { name, select }));
        let table = "CREATE TABLE IF NOT EXISTS db.t\n(\n    a Int64\n)";
        assert_eq!(makes(table, "db"), Some(Makes::Table("t")));
        assert_eq!(makes(table, "other"), None);
        let alter = "ALTER TABLE db.t\n    ADD COLUMN IF NOT EXISTS a Array(Int64),\n    \
                     ADD COLUMN IF NOT EXISTS b UUID";
        let (table, columns) = ("t", vec!["a", "b"]);
        assert_eq!(makes(alter, "db"), Some(Makes::Columns { table, columns }));
        let drop = "ALTER TABLE db.t\n    DROP COLUMN IF EXISTS a,\n    DROP COLUMN IF EXISTS b";
        let (table, columns) = ("t", vec!["a", "b"]);
        assert_eq!(makes(drop, "db"), Some(Makes::NoColumns { table, columns }));
        assert_eq!(makes("DROP TABLE db.t", "db"), None);
    }

    #[test]
    fn what_up_makes_is_recognized_by_columns_that_it_has() {
        for (kind, name, columns) in OBJECTS {
            let begin = match kind {
                "VIEW" => format!("CREATE OR REPLACE VIEW {{{{database}}}}.{name} AS\n"),
                _ => format!("CREATE TABLE IF NOT EXISTS {{{{database}}}}.{name}\n"),
            };
            let mut files = assets::under("sql/clickhouse/");
            let file = files.find(|file| file.text.contains(&begin));
            let text = file.unwrap_or_else(|| panic!("nothing makes {name}")).text;
            for column in columns {
                let is_column = |line: &str| {
                    let words = line.trim_end_matches(',').split_whitespace();
                    let mut words = words.map(|word| word.trim_end_matches(','));
                    line.starts_with("    ")
                        && (words.next() == Some(column) || words.next_back() == Some(column))
                };
                assert!(text.lines().any(is_column), "{name} has no {column}");
            }
        }
    }
}
