//! Brings a database to what the connector needs: refuses shapes that cannot be
//! followed, and executes only the statements that are needed.

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

/// What the operator has agreed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nothing.
    #[default]
    None,
    /// What was listed, each by its text.
    Listed(BTreeSet<String>),
    /// Whatever is needed.
    All,
}

impl Consent {
    /// Whether this may be done.
    #[must_use]
    pub fn covers(&self, what: &str) -> bool {
        match self {
            Self::None => false,
            Self::Listed(listed) => listed.contains(what),
            Self::All => true,
        }
    }
}

/// On whose server, and what may be done there.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a> {
    /// It is fanout's own: what is needed is done.
    pub is_ours: bool,
    pub consent: &'a Consent,
}

/// Shapes that fanout does not follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(findings))]
pub struct Refusal {
    pub findings: Vec<Finding>,
}

fn list(findings: &[Finding]) -> String {
    let whats: Vec<&str> = findings.iter().map(|one| one.what.as_str()).collect();
    whats.join("; ")
}

/// Why the database is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("the source is of a shape that fanout does not support: {0}")]
    Unsupported(Refusal),
    #[error("postgres refused: {sql}")]
    Statement {
        sql: String,
        #[source]
        source: PostgresError,
    },
    #[error(
        "{table} is locked{}; this was given up after {} s: {sql}",
        by(holder.as_deref()),
        LOCK_TIMEOUT.as_secs()
    )]
    Locked {
        table: String,
        sql: String,
        holder: Option<Box<Holder>>,
    },
    #[error("confirmation required: postgres is not fanout's own, and needs: {sql}")]
    NotConfirmed { sql: String },
}

fn by(holder: Option<&Holder>) -> String {
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
                "execute it as a role that may, or grant that to fanout's; then fanout up"
                    .to_owned()
            }
            Self::Locked { .. } => "end that transaction, then fanout up".to_owned(),
            Self::NotConfirmed { .. } => "fanout up --yes".to_owned(),
        })
    }
}

/// The statements that are needed now, in their order.
///
/// # Errors
/// When Postgres does not answer, or the source has a shape that is not
/// supported. That a table is missing is none as long as the connector has not
/// begun, and else where its creation was agreed to.
pub async fn needed(
    connections: &Connections,
    permit: Permit<'_>,
) -> Result<Vec<Statement>, ProvisionError> {
    let reader = connect(connections).await?;
    let expected = Expected::demo(&connections.settings().connector);
    let catalogue = reader.read(&expected).await.map_err(InspectError::from)?;
    let needed = statements(&catalogue, &expected, permit.is_ours);
    let replaces = |finding: &Finding| {
        let creates = |one: &&Statement| one.repairs == Some(Code::TableMissing);
        let mut created = needed.iter().filter(creates);
        created.any(|one| one.table == finding.table && permit.consent.covers(&one.sql))
    };
    let findings = refusals(&catalogue, &expected, replaces);
    if findings.is_empty() {
        return Ok(needed);
    }
    Err(ProvisionError::Unsupported(Refusal { findings }))
}

/// The shapes that stand in the way. A missing table does not where it is
/// created for the first time, or `replaces` says that it may be.
fn refusals(
    catalogue: &Catalogue,
    expected: &Expected,
    replaces: impl Fn(&Finding) -> bool,
) -> Vec<Finding> {
    let begun = has_begun(catalogue);
    let mut findings = check(catalogue, expected);
    findings.retain(|finding| {
        let is_created = finding.code == Code::TableMissing && (!begun || replaces(finding));
        finding.severity == Severity::Unsupported && !is_created
    });
    findings
}

/// Executes what is needed; returns it.
///
/// # Errors
/// As [`needed`], when a statement is refused or waits for a lock, or, on a
/// server of somebody else's, one was not agreed to. What was executed before
/// stays.
pub async fn provision(
    connections: &Connections,
    permit: Permit<'_>,
) -> Result<Vec<Statement>, ProvisionError> {
    let needed = needed(connections, permit).await?;
    execute(connections, permit, needed).await
}

/// The statements that take tables out of the publication which were ours and
/// have another name now. Kafka, which knows what was ours, has to answer.
///
/// # Errors
/// When Postgres or Kafka does not answer.
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

/// Takes them out; returns the statements.
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
    let unheard = |one: &&Statement| !permit.is_ours && !permit.consent.covers(&one.sql);
    if let Some(statement) = statements.iter().find(unheard) {
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
            return Err(refused(&client, &expected, statement, source).await);
        }
    }
    Ok(statements)
}

/// Why a statement was not executed.
async fn refused(
    client: &Client,
    expected: &Expected,
    statement: &Statement,
    source: PostgresError,
) -> ProvisionError {
    let sql = statement.sql.clone();
    if !postgres::is_lock_timeout(&source) {
        return ProvisionError::Statement { sql, source };
    }
    let all = expected.relations().into_iter();
    let all = all.map(|name| format!("{SCHEMA}.{name}"));
    let tables: Vec<String> = statement.table.clone().into_iter().chain(all).collect();
    // Who it is only helps: without it the error says the rest.
    let asked = postgres::holder_of(client, &tables);
    let found = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let found = found.ok().and_then(Result::ok).flatten();
    let (table, holder) = match found {
        Some((table, holder)) => (table, Some(Box::new(holder))),
        None => (tables.into_iter().next().unwrap_or_default(), None),
    };
    ProvisionError::Locked { table, sql, holder }
}
