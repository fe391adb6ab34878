//! What all output to the terminal has in common: how a line gets to stderr, and
//! the secrets that no output shows. What is printed is the printer's decision.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    sync::{Arc, OnceLock},
};

use fanout::secret::Redactor;
use serde_json::Value as Json;

/// The secrets that no output may show, once the settings are loaded.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<OnceLock<Redactor>>);

impl Secrets {
    /// Hides these from here on. The settings of one command are the same each
    /// time they are loaded, so the first ones stay.
    pub fn hide(&self, redactor: Redactor) {
        let _ = self.0.set(redactor);
    }

    /// A text without them.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0
            .get()
            .map_or(Cow::Borrowed(text), |redactor| redactor.redact(text))
    }

    /// Removes them from a document.
    pub fn redact_document(&self, document: &mut Json) {
        if let Some(redactor) = self.0.get() {
            redactor.redact_document(document);
        }
    }
}

/// A line to stderr. Where that is closed there is nobody to tell.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
