//! Writing lines to stderr, and the secrets that no output may show. The
//! printer decides what is printed.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    sync::{Arc, OnceLock},
};

use fanout::secret::Redactor;
use serde_json::Value as Json;

/// The secrets that no output may show; empty until the settings are loaded.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<OnceLock<Redactor>>);

impl Secrets {
    /// Hides these secrets from now on. A command loads the same settings every
    /// time, so only the first call has an effect.
    pub fn hide(&self, redactor: Redactor) {
        let _ = self.0.set(redactor);
    }

    /// Removes the secrets from a text.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0
            .get()
            .map_or(Cow::Borrowed(text), |redactor| redactor.redact(text))
    }

    /// Removes the secrets from a document.
    pub fn redact_document(&self, document: &mut Json) {
        if let Some(redactor) = self.0.get() {
            redactor.redact_document(document);
        }
    }
}

/// Writes a line to stderr. An error is ignored: it cannot be reported.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
