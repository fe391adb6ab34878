//! The source database: what Debezium and the pipeline need of it.

use std::time::Duration;

use tokio::time::timeout;

use super::Finding;
use crate::{
    clients::postgres::{self, Client, PostgresError},
    config::Settings,
    failure::chain,
    operations::connector::SLOT_LOST_REMEDY,
};

/// A server that is down need not be waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tables of the source.
const TABLES: [&str; 2] = ["content", "engagement_events"];

pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let connected = timeout(PATIENCE, postgres::connect(&settings.postgres.url)).await;
    let client = match connected {
        Ok(Ok(client)) => client,
        Ok(Err(error)) if !postgres::is_unreachable(&error) => {
            let fix = Some("fanout config show".to_owned());
            return vec![Finding::fail("postgres", chain(&error), fix)];
        }
        _ => {
            return vec![Finding::pass("postgres", "not running: not looked into")];
        }
    };
    let looked = async {
        let mut findings = vec![wal_level(&client).await?];
        findings.extend(replica_identities(&client).await?);
        findings.extend(slot(&client, settings).await?);
        Ok::<_, PostgresError>(findings)
    };
    match timeout(PATIENCE, looked).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![Finding::fail("postgres", chain(&error), None)],
        Err(_) => {
            let evidence = "did not answer in time";
            vec![Finding::warn("postgres", evidence, "fanout status")]
        }
    }
}

async fn wal_level(client: &Client) -> Result<Finding, PostgresError> {
    let row = client.query_one("SHOW wal_level", &[]).await?;
    let level: String = row.try_get(0)?;
    let name = "postgres: wal_level";
    Ok(if level == "logical" {
        Finding::pass(name, level)
    } else {
        let fix = "ALTER SYSTEM SET wal_level = 'logical', and restart postgres";
        Finding::fail(name, level, Some(fix.to_owned()))
    })
}

/// Without the whole old row a change does not carry values kept out of line,
/// and a record without them is a dead letter.
async fn replica_identities(client: &Client) -> Result<Vec<Finding>, PostgresError> {
    let sql = "SELECT relname::text, relreplident::text FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relname = ANY ($1::text[])";
    let tables: Vec<&str> = TABLES.to_vec();
    let rows = client.query(sql, &[&tables]).await?;
    let mut identities = Vec::new();
    for row in &rows {
        identities.push((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
    }
    Ok(TABLES
        .iter()
        .map(|table| identity(table, &identities))
        .collect())
}

fn identity(table: &str, identities: &[(String, String)]) -> Finding {
    let name = format!("postgres: replica identity of {table}");
    let found = identities.iter().find(|(found, _)| found == table);
    match found.map(|(_, identity)| identity.as_str()) {
        None => Finding::warn(name, "the table is not there yet", "fanout up"),
        Some("f") => Finding::pass(name, "full"),
        Some(identity) => {
            let identity = match identity {
                "d" => "default",
                "n" => "nothing",
                "i" => "an index",
                other => other,
            };
            let fix = format!("ALTER TABLE public.{table} REPLICA IDENTITY FULL");
            Finding::fail(name, identity, Some(fix))
        }
    }
}

/// A slot that has lost its log does not come back by itself.
async fn slot(client: &Client, settings: &Settings) -> Result<Option<Finding>, PostgresError> {
    let slot = &settings.connector.slot;
    let sql = "SELECT wal_status, active FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[slot]).await? else {
        return Ok(None);
    };
    let status: Option<String> = row.try_get(0)?;
    let active: bool = row.try_get(1)?;
    let name = format!("postgres: slot {slot}");
    Ok(Some(match (status.as_deref(), active) {
        (Some("lost"), _) => {
            let fix = SLOT_LOST_REMEDY.to_owned();
            Finding::fail(name, "has lost its log", Some(fix))
        }
        (_, true) => Finding::pass(name, "read"),
        (_, false) => {
            let evidence = "nobody reads it, and postgres keeps its log";
            Finding::warn(name, evidence, "fanout connector status")
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn only_a_full_identity_passes_and_the_fix_is_a_statement() {
        let of = |identity: &str| [("content".to_owned(), identity.to_owned())];
        assert_eq!(identity("content", &of("f")).level, Level::Pass);
        let finding = identity("content", &of("d"));
        assert_eq!(finding.level, Level::Fail);
        assert_eq!(
            finding.fix.as_deref(),
            Some("ALTER TABLE public.content REPLICA IDENTITY FULL")
        );
        assert_eq!(identity("content", &[]).level, Level::Warn);
    }
}
