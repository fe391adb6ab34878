//! Titles of content, from the sinks and from Postgres.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    connections::{Connections, postgres::PostgresError},
    sinks::{inspect::Title, inspector::Inspector},
};

/// Returns the titles that the configured sinks store, and those in Postgres if
/// any is missing. Unavailable titles are left out, because a board without
/// titles is better than no board.
pub(super) async fn titles(connections: &Connections, ids: &[Uuid]) -> HashMap<Uuid, Title> {
    let mut titles: HashMap<Uuid, Title> = HashMap::new();
    for kind in connections.settings().pipeline.sinks.iter().copied() {
        match Inspector::titles(kind, connections, ids).await {
            Ok(found) => titles.extend(found),
            Err(error) => tracing::debug!(error = %error.cause(), "no titles from {kind}"),
        }
    }
    if ids.iter().any(|id| !titles.contains_key(id)) {
        match source_titles(connections, ids).await {
            Ok(found) => titles.extend(found),
            Err(error) => tracing::debug!(%error, "no titles from postgres"),
        }
    }
    titles
}

async fn source_titles(
    connections: &Connections,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Title)>, PostgresError> {
    let client = connections.postgres.connect().await?;
    let sql = "SELECT id, title, content_type FROM public.content WHERE id = ANY ($1)";
    let rows = client.query(sql, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            let title = Title {
                title: row.try_get(1)?,
                content_type: row.try_get(2)?,
            };
            Ok((row.try_get(0)?, title))
        })
        .collect()
}
