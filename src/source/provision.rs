//! Prepares a database for the connector: refuses an unsupported schema, and executes only
//! the required statements.

use std::{collections::BTreeSet, time::Duration};

use super::{
    catalogue::Reader,
    checks::{
        Catalogue, Code, Expected, Finding, SCHEMA, Severity, Statement, check, drop_stray,
        has_begun, statements, strays,
    },
    inspector::{InspectError, Inspector},
};
use crate::{
    connections::{
        Connections,
        postgres::{self, Client, Holder, LOCK_TIMEOUT, PostgresError},
    },
    failure::{Failure, Kind},
};

/// The operator's consent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nothing.
    #[default]
    None,
    /// Consent to these statements, by their text.
    Listed(BTreeSet<String>),
    /// Consent to every required statement.
    All,
}

impl Consent {
    /// Returns true if the statement may be executed.
    #[must_use]
    pub fn covers(&self, statement: &str) -> bool {
        match self {
            Self::None => false,
            Self::Listed(listed) => listed.contains(statement),
            Self::All => true,
        }
    }
}

/// Which statements may be executed on the server.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a> {
    /// Whether fanout manages the server. Required statements then need no consent.
    pub is_ours: bool,
    pub consent: &'a Consent,
}

/// Findings that make the source unsupported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", joined(findings))]
pub struct Refusal {
    pub findings: Vec<Finding>,
}

fn joined(findings: &[Finding]) -> String {
    let texts: Vec<&str> = findings
        .iter()
        .map(|finding| finding.what.as_str())
        .collect();
    texts.join("; ")
}

/// Error while preparing the database.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("the source is not supported: {0}")]
    Unsupported(Refusal),
    #[error("postgres refused the statement: {sql}")]
    Statement {
        sql: String,
        #[source]
        source: PostgresError,
    },
    #[error(
        "{table} is locked{}; gave up after {} s: {sql}",
        by_holder(holder.as_deref()),
        LOCK_TIMEOUT.as_secs()
    )]
    Locked {
        table: String,
        sql: String,
        holder: Option<Box<Holder>>,
    },
    #[error("confirmation required: postgres is external and needs: {sql}")]
    NotConfirmed { sql: String },
}

fn by_holder(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

impl From<PostgresError> for ProvisionError {
    fn from(error: PostgresError) -> Self {
        Self::Inspect(error.into())
    }
}

impl Failure for ProvisionError {
    fn kind(&self) -> Kind {
        match self {
            Self::Inspect(_) => Kind::Environment,
            Self::Unsupported(_) | Self::NotConfirmed { .. } => Kind::Refused,
            Self::Statement { .. } => Kind::Failed,
            Self::Locked { .. } => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Inspect(_) => "postgres",
            Self::Unsupported(_) => "source_unsupported",
            Self::Statement { .. } => "postgres_objects",
            Self::Locked { .. } => "postgres_locked",
            Self::NotConfirmed { .. } => "not_confirmed",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Inspect(_) => "fanout status".to_owned(),
            Self::Unsupported(refusal) => refusal.findings.first()?.remedy.clone(),
            Self::Statement { .. } => {
                "execute it as a role with the privilege, or grant the privilege to the role \
                 of postgres.url; then fanout up"
                    .to_owned()
            }
            Self::Locked { .. } => "end that transaction, then fanout up".to_owned(),
            Self::NotConfirmed { .. } => "fanout up --yes".to_owned(),
        })
    }
}

/// Returns the required statements, in order.
///
/// # Errors
/// If Postgres does not respond, or the source is not supported. A missing table is not an
/// error if the connector has not started yet, or if the operator agreed to create the table.
pub async fn needed(
    connections: &Connections,
    permit: Permit<'_>,
) -> Result<Vec<Statement>, ProvisionError> {
    let reader = connect(connections).await?;
    let expected = Expected::demo(&connections.settings().connector);
    let catalogue = reader.read(&expected).await.map_err(InspectError::from)?;
    let needed = statements(&catalogue, &expected, permit.is_ours);
    let may_create = |finding: &Finding| {
        needed.iter().any(|statement| {
            statement.repairs == Some(Code::TableMissing)
                && statement.table == finding.table
                && permit.consent.covers(&statement.sql)
        })
    };
    let findings = refusals(&catalogue, &expected, may_create);
    if findings.is_empty() {
        return Ok(needed);
    }
    Err(ProvisionError::Unsupported(Refusal { findings }))
}

/// Returns the findings that make the source unsupported. A missing table is not one of them
/// if the connector has not started yet or `may_create` allows its creation.
fn refusals(
    catalogue: &Catalogue,
    expected: &Expected,
    may_create: impl Fn(&Finding) -> bool,
) -> Vec<Finding> {
    let has_started = has_begun(catalogue);
    let mut findings = check(catalogue, expected);
    findings.retain(|finding| {
        let will_create =
            finding.code == Code::TableMissing && (!has_started || may_create(finding));
        finding.severity == Severity::Unsupported && !will_create
    });
    findings
}

/// Executes the required statements and returns them.
///
/// # Errors
/// As [`needed`]; if a statement is refused or times out on a lock; or if the server is
/// external and the operator did not agree to a statement. Earlier statements stay in effect.
pub async fn provision(
    connections: &Connections,
    permit: Permit<'_>,
) -> Result<Vec<Statement>, ProvisionError> {
    let needed = needed(connections, permit).await?;
    execute(connections, permit, needed).await
}

/// Returns the statements that remove renamed tables of fanout from the publication. The
/// record in Kafka shows which tables they are.
///
/// # Errors
/// If Postgres or Kafka does not respond.
pub async fn stray_drops(connections: &Connections) -> Result<Vec<Statement>, ProvisionError> {
    let mut inspector = Inspector::new(connections)?;
    let Some(history) = inspector.history().await? else {
        return Ok(Vec::new());
    };
    let catalogue = inspector.catalogue().await?;
    let expected = inspector.expected();
    let strays = strays(&catalogue, expected, &history.baseline.fingerprint);
    let drops = strays
        .iter()
        .map(|(_, stray)| drop_stray(&expected.publication, stray));
    Ok(drops.collect())
}

/// Executes [`stray_drops`] and returns the statements.
///
/// # Errors
/// As [`stray_drops`] and [`provision`].
pub async fn drop_strays(
    connections: &Connections,
    permit: Permit<'_>,
) -> Result<Vec<Statement>, ProvisionError> {
    let drops = stray_drops(connections).await?;
    execute(connections, permit, drops).await
}

async fn connect(connections: &Connections) -> Result<Reader, ProvisionError> {
    let client = connections.postgres.connect().await?;
    Ok(Reader::new(client).await?)
}

async fn execute(
    connections: &Connections,
    permit: Permit<'_>,
    statements: Vec<Statement>,
) -> Result<Vec<Statement>, ProvisionError> {
    let is_refused =
        |statement: &&Statement| !permit.is_ours && !permit.consent.covers(&statement.sql);
    if let Some(statement) = statements.iter().find(is_refused) {
        let sql = statement.sql.clone();
        return Err(ProvisionError::NotConfirmed { sql });
    }
    if statements.is_empty() {
        return Ok(statements);
    }
    let client = connections.postgres.connect().await?;
    postgres::with_lock_timeout(&client).await?;
    for statement in &statements {
        if let Err(source) = client.batch_execute(&statement.sql).await {
            let expected = Expected::demo(&connections.settings().connector);
            return Err(statement_error(&client, &expected, statement, source).await);
        }
    }
    Ok(statements)
}

/// Returns the error of a failed statement. After a lock timeout it contains the lock's holder.
async fn statement_error(
    client: &Client,
    expected: &Expected,
    statement: &Statement,
    source: PostgresError,
) -> ProvisionError {
    let sql = statement.sql.clone();
    if !postgres::is_lock_timeout(&source) {
        return ProvisionError::Statement { sql, source };
    }
    let relations = expected.relations().into_iter();
    let relations = relations.map(|name| format!("{SCHEMA}.{name}"));
    let tables: Vec<String> = statement
        .table
        .clone()
        .into_iter()
        .chain(relations)
        .collect();
    // The holder is optional: the error is useful without it.
    let query = postgres::holder_of(client, &tables);
    let lock = tokio::time::timeout(Duration::from_secs(2), query).await;
    let lock = lock.ok().and_then(Result::ok).flatten();
    let (table, holder) = match lock {
        Some((table, holder)) => (table, Some(Box::new(holder))),
        None => (tables.into_iter().next().unwrap_or_default(), None),
    };
    ProvisionError::Locked { table, sql, holder }
}
