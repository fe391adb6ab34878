//! What a process of fanout's own binary is started to do: become a server, or
//! write a service's log. Doing it is [`launch`](super::launch)'s.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::{plan::Fingerprint, stack::log_file::LogFile};

/// What this program is started with to do a [`Task`].
pub const LAUNCH: &str = "launch";

/// [`Launch::umask`] of what writes for its own eyes.
pub const PRIVATE: u32 = 0o077;

/// [`Launch::umask`] of what writes for everybody to read.
pub const PUBLIC: u32 = 0o022;

/// What the process is to do: the first line of its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Become a server.
    Serve(Launch),
    /// Write the rest of stdin into a log.
    WriteLog(LogFile),
}

/// All that a server's process has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Where to put the process on record, for one that is to stay.
    pub record: Option<PathBuf>,
    pub tether: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working folder.
    pub folder: PathBuf,
    /// What nobody else may do with the files it makes, whatever umask `up` was
    /// called with.
    pub umask: u32,
    /// What it reads from stdin; a few lines at most.
    pub input: String,
    /// Whose rights to drop to.
    pub account: Option<Account>,
    pub fingerprint: Fingerprint,
}
