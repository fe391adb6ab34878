//! Tasks of a process that runs the fanout binary: become a server, or write a
//! service's log. [`launch`](super::launch) carries them out.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::stack::{log_file::LogFile, plan::Fingerprint};

/// Argument that starts this program for a [`Task`].
pub const LAUNCH: &str = "launch";

/// [`Launch::umask`] for private files.
pub const PRIVATE: u32 = 0o077;

/// [`Launch::umask`] for files that everybody may read.
pub const PUBLIC: u32 = 0o022;

/// Task of the process, sent as the first line of its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Become a server.
    Serve(Launch),
    /// Write the rest of stdin to a log.
    WriteLog(LogFile),
}

/// Instructions for a server's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// File to record the process in, if it keeps running.
    pub record: Option<PathBuf>,
    pub tether: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Complete environment.
    pub env: BTreeMap<String, String>,
    /// Working folder.
    pub folder: PathBuf,
    /// Umask of the process, whatever umask `up` was called with.
    pub umask: u32,
    /// Standard input; a few lines at most.
    pub input: String,
    /// User to run as, if not the current one.
    pub account: Option<Account>,
    pub fingerprint: Fingerprint,
}
