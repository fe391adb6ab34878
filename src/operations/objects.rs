//! What has to be in ClickHouse before the pipeline runs: its tables and views.
//! They are made where they are not there, and left alone where they are. What
//! Postgres has to have is up to [`super::source`].

use std::time::Duration;

use crate::{
    assets,
    clients::clickhouse,
    config::Settings,
    failure::{Failure, Kind},
    template::{TemplateError, Values, render},
};

/// Why the objects are not there.
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

/// Names that the statements are written with.
fn values(settings: &Settings) -> Values {
    Values::from([("database".to_owned(), settings.clickhouse.database.clone())])
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

/// Applies `sql/clickhouse/`, one statement a file.
///
/// # Errors
/// When ClickHouse does not take a statement, or not within its
/// `request_timeout_ms`.
pub async fn clickhouse(settings: &Settings) -> Result<(), ObjectsError> {
    let endpoint = clickhouse::Endpoint::at(&settings.clickhouse.url)?;
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
    fn every_statement_can_be_filled_in() {
        let statements = statements("sql/clickhouse/", &Settings::default()).expect("filled in");
        assert!(!statements.is_empty());
        for (file, text) in statements {
            assert!(!text.contains("{{"), "{file}: {text}");
        }
    }
}
