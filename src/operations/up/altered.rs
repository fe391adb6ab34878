//! Changes of `up` in servers that were running already.

use serde::Serialize;

use crate::source::{checks::Statement, connector::Applied, role};

/// An object that was created or repaired in a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Altered {
    pub service: String,
    /// A statement, or a sentence.
    pub what: String,
    /// Whether changes were lost before the repair.
    pub recovers: bool,
}

impl Altered {
    pub(super) fn new(service: &str, what: String) -> Self {
        Self {
            service: service.to_owned(),
            what,
            recovers: false,
        }
    }

    pub(super) fn in_postgres(statement: Statement) -> Self {
        Self {
            service: "postgres".to_owned(),
            what: statement.sql,
            recovers: statement.recovers,
        }
    }

    /// Creates the change of a role in a database that an earlier version created.
    pub(super) fn of_role(role: &str) -> Self {
        let superuser = role::SUPERUSER;
        Self {
            service: "postgres".to_owned(),
            what: format!(
                "role {role} is no longer a superuser; {superuser}, without a password, is"
            ),
            recovers: false,
        }
    }

    pub(super) fn in_kafka(what: String) -> Self {
        Self {
            service: "kafka".to_owned(),
            what,
            recovers: false,
        }
    }

    pub(super) fn in_connect(connector: &str, applied: Applied) -> Option<Self> {
        let (what, recovers) = match applied {
            Applied::Unchanged => return None,
            Applied::Created => (format!("registered connector {connector}"), false),
            Applied::Updated { changed, drifted } => {
                let changed = changed.join(", ");
                (format!("updated connector {connector}: {changed}"), drifted)
            }
        };
        Some(Self {
            service: "connect".to_owned(),
            what,
            recovers,
        })
    }
}
