//! Fills a definition's texts and remembers what went into them, so that each
//! cause of a change has a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    definition::{self, DefinitionError},
    files,
    values::unwritable,
};
use crate::{
    failure::{Failure, Kind},
    plan::Fingerprint,
    template::{TemplateError, Values, render},
};

/// The settings that bound every service's log: one that changes takes effect
/// with the next start.
pub(super) const LOG_LIMITS: [&str; 2] = ["limits.log_file_mib", "limits.log_files"];

/// Why a definition cannot be filled in.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error("the definition of {service} cannot be filled in")]
    Template {
        service: String,
        #[source]
        source: TemplateError,
    },
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("{what}, in {setting}, {why}, which its configuration file does not take")]
    Credential {
        setting: String,
        what: String,
        why: String,
    },
    #[error(
        "{} has a `{letter}`, which the configuration files of servers do not take",
        path.display()
    )]
    Place { path: PathBuf, letter: char },
    #[error("the settings cannot be read")]
    Settings(#[from] serde_json::Error),
}

impl Failure for FillError {
    fn kind(&self) -> Kind {
        match self {
            Self::Credential { .. } => Kind::Usage,
            Self::Place { .. } => Kind::Environment,
            _ => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Credential { .. } => "credential",
            Self::Place { .. } => "folder_name",
            _ => "stack_definition",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Credential { .. } => Some("fanout config show".to_owned()),
            Self::Place { .. } => Some(
                "name folders without it: FANOUT_HOME=<folder> FANOUT_CACHE=<folder> fanout up"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The texts of these assets.
pub(super) fn assets<'a>(
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<&'static str>, FillError> {
    names.map(|name| Ok(definition::asset(name)?)).collect()
}

/// Refuses a credential that would break one of the texts that it is written
/// into.
pub(super) fn check_credentials(texts: &[&str], values: &Values) -> Result<(), FillError> {
    match unwritable(texts, values) {
        Some((setting, what, why)) => Err(FillError::Credential { setting, what, why }),
        None => Ok(()),
    }
}

/// Refuses a folder whose name would break the texts that it is written into.
pub(super) fn check_place(path: &Path) -> Result<(), FillError> {
    match files::unwritable(path) {
        Some(letter) => Err(FillError::Place {
            path: path.to_owned(),
            letter,
        }),
        None => Ok(()),
    }
}

/// Fills texts and remembers what went into them.
pub(super) struct Filler<'a> {
    service: &'a str,
    values: &'a Values,
    /// Values that make no other service.
    places: &'a [&'a str],
    pub(super) used: BTreeSet<String>,
    inputs: BTreeMap<String, String>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(service: &'a str, values: &'a Values, places: &'a [&'a str]) -> Self {
        Self {
            service,
            values,
            places,
            used: BTreeSet::new(),
            inputs: BTreeMap::new(),
        }
    }

    pub(super) fn fill(&mut self, template: &str) -> Result<String, FillError> {
        let rendered = render(template, self.values).map_err(|source| FillError::Template {
            service: self.service.to_owned(),
            source,
        })?;
        self.used.extend(rendered.used);
        Ok(rendered.text)
    }

    /// The template itself: with its values beside it, each cause has a name.
    pub(super) fn input(&mut self, key: &str, template: &str) {
        self.inputs.insert(key.to_owned(), template.to_owned());
    }

    pub(super) fn fingerprint(mut self) -> Fingerprint {
        for name in &self.used {
            if self.places.contains(&name.as_str()) {
                continue;
            }
            let key = match name.as_str() {
                "port" => "ports.main".to_owned(),
                // Made of the setting, which is what somebody has changed.
                "limits.partition_bytes" => "limits.partition_mib".to_owned(),
                other => other.replacen("port.", "ports.", 1),
            };
            let value = self.values.get(name).cloned().unwrap_or_default();
            self.inputs.insert(key, value);
        }
        let inputs = self.inputs.into_iter();
        inputs.map(|(key, input)| (key, digest(&input))).collect()
    }
}

/// Enough of a digest to tell two inputs apart, and nothing of a secret.
fn digest(input: &str) -> String {
    let digest = Sha256::digest(input.as_bytes());
    let (start, _) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    format!("{:016x}", u64::from_be_bytes(*start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_names_its_inputs_and_shows_none() {
        let values = Values::from([
            ("port".to_owned(), "6379".to_owned()),
            ("port.inner".to_owned(), "1".to_owned()),
            ("redis.password".to_owned(), "secret".to_owned()),
            ("data".to_owned(), "/somewhere".to_owned()),
            ("limits.partition_bytes".to_owned(), "1048576".to_owned()),
        ]);
        let mut filler = Filler::new("it", &values, &["data"]);
        let template = "{{port}} {{port.inner}} {{data}} {{redis.password}}";
        assert_eq!(
            filler.fill(template).expect("known"),
            "6379 1 /somewhere secret"
        );
        filler.fill("{{limits.partition_bytes}}").expect("known");
        filler.input("command", template);
        let fingerprint = filler.fingerprint();
        let keys: Vec<&str> = fingerprint.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "command",
                "limits.partition_mib",
                "ports.inner",
                "ports.main",
                "redis.password"
            ]
        );
        assert!(!fingerprint.values().any(|digest| digest.contains("secret")));
    }
}
