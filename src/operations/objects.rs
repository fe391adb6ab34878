//! What has to be in the servers before the pipeline runs: the source tables
//! with their publication in Postgres, the tables and views in ClickHouse. All
//! of it is made where it is not there, and left alone where it is.

use std::time::Duration;

use crate::{
    assets,
    clients::{clickhouse, postgres},
    config::Settings,
    failure::{Failure, Kind},
    template::{TemplateError, Values, render},
};

/// Why the objects are not there.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("{file} cannot be applied to postgres")]
    Postgres {
        file: &'static str,
        #[source]
        source: postgres::PostgresError,
    },
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
            Self::Postgres { .. } => "postgres_objects",
            Self::ClickHouse { .. } => "clickhouse_objects",
            Self::Url(_) => "clickhouse_url",
            Self::Template { .. } => "sql_template",
            Self::TooLong { .. } => "objects_not_ready",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Postgres { .. } => "fanout logs postgres".to_owned(),
            Self::ClickHouse { .. } => "fanout logs clickhouse".to_owned(),
            Self::TooLong { server, .. } => format!("fanout logs {server}, then fanout up"),
            Self::Url(_) | Self::Template { .. } => "fanout config show".to_owned(),
        })
    }
}

/// Names that the statements are written with.
fn values(settings: &Settings) -> Values {
    [
        ("publication", &settings.connector.publication),
        ("database", &settings.clickhouse.database),
    ]
    .map(|(name, value)| (name.to_owned(), value.clone()))
    .into()
}

/// The files below `folder` with their statements.
fn statements(
    folder: &str,
    settings: &Settings,
) -> Result<Vec<(&'static str, String)>, ObjectsError> {
    let values = values(settings);
    assets::under(folder)
        .map(|asset| match render(asset.text, &values) {
            Ok(rendered) => Ok((asset.path, rendered.text)),
            Err(source) => Err(ObjectsError::Template {
                file: asset.path,
                source,
            }),
        })
        .collect()
}

/// Applies `sql/postgres/`.
///
/// # Errors
/// When Postgres does not take a file.
pub async fn postgres(settings: &Settings) -> Result<(), ObjectsError> {
    let statements = statements("sql/postgres/", settings)?;
    let on = |file| move |source| ObjectsError::Postgres { file, source };
    let client = postgres::connect(&settings.postgres.url)
        .await
        .map_err(on("sql/postgres"))?;
    for (file, text) in statements {
        client.batch_execute(&text).await.map_err(on(file))?;
    }
    Ok(())
}

/// Applies `sql/clickhouse/`, one statement a file.
///
/// # Errors
/// When ClickHouse does not take a statement, or not within its
/// `request_timeout_ms`.
pub async fn clickhouse(settings: &Settings) -> Result<(), ObjectsError> {
    let endpoint: clickhouse::Endpoint = settings.clickhouse.url.parse()?;
    let patience = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    for (file, text) in statements("sql/clickhouse/", settings)? {
        clickhouse::execute(&endpoint, &text, patience)
            .await
            .map_err(|source| ObjectsError::ClickHouse { file, source })?;
    }
    Ok(())
}

/// Does `work` on a server within `timeout`: a statement waits for locks that
/// others hold.
///
/// # Errors
/// As `work`, or when the time is over.
pub async fn in_time(
    server: &'static str,
    timeout: Duration,
    work: impl Future<Output = Result<(), ObjectsError>>,
) -> Result<(), ObjectsError> {
    let seconds = timeout.as_secs();
    let done = tokio::time::timeout(timeout, work).await;
    done.unwrap_or(Err(ObjectsError::TooLong { server, seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_can_be_filled_in() {
        for folder in ["sql/postgres/", "sql/clickhouse/"] {
            let statements = statements(folder, &Settings::default()).expect("filled in");
            assert!(!statements.is_empty());
            for (file, text) in statements {
                assert!(!text.contains("{{"), "{file}: {text}");
            }
        }
    }
}
