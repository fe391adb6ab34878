//! Renders the templates of a definition and records their inputs, so that
//! every difference between two fingerprints has a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::{definition, files, plan::Fingerprint, values::unwritable};
use crate::{
    failure::{Command, Error, Hint, Kind},
    text::template::{TemplateError, Values, render},
};

/// Settings that limit the size of every service's log. A change takes effect
/// at the next start.
pub(super) const LOG_LIMITS: [&str; 2] = ["limits.log_file_mib", "limits.log_files"];

/// Returns the error for a template with an unknown placeholder.
pub(super) fn template_error(service: &str, source: TemplateError) -> Error {
    definition::unusable(format!("cannot render the definition of {service}")).caused_by(source)
}

/// Returns the error for settings that cannot be converted to values.
pub(super) fn settings_error(source: serde_json::Error) -> Error {
    definition::unusable("cannot read the settings").caused_by(source)
}

/// Returns the texts of these assets.
pub(super) fn assets<'a>(
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<&'static str>, Error> {
    names.map(|name| definition::asset(name)).collect()
}

/// Rejects a credential that would break one of the texts that contain it.
pub(super) fn check_credentials(texts: &[&str], values: &Values) -> Result<(), Error> {
    match unwritable(texts, values) {
        Some((setting, credential, reason)) => {
            let message = format!(
                "{credential}, set in {setting}, {reason}, which its configuration file does not \
                 allow"
            );
            let error = Error::new(Kind::Usage, "credential", message);
            Err(error.with_hint(Command::new("config show")))
        }
        None => Ok(()),
    }
}

/// Rejects a folder whose name would break the texts that contain it.
pub(super) fn check_folder_name(path: &Path) -> Result<(), Error> {
    match files::unwritable(path) {
        Some(letter) => {
            let message = format!(
                "{} contains `{letter}`, which the configuration files of servers do not allow",
                path.display()
            );
            let folders = "FANOUT_HOME=<folder> FANOUT_CACHE=<folder>";
            let hint = Hint::from(format!("use folders without it: {folders} "));
            Err(Error::new(Kind::Environment, "folder_name", message)
                .with_hint(hint.command(Command::new("up"))))
        }
        None => Ok(()),
    }
}

/// Renders templates and records their inputs.
pub(super) struct TemplateRenderer<'a> {
    service: &'a str,
    values: &'a Values,
    /// Values left out of the fingerprint, because they only say where the
    /// service is.
    location_values: &'a [&'a str],
    pub(super) used: BTreeSet<String>,
    inputs: BTreeMap<String, String>,
}

impl<'a> TemplateRenderer<'a> {
    pub(super) fn new(
        service: &'a str,
        values: &'a Values,
        location_values: &'a [&'a str],
    ) -> Self {
        Self {
            service,
            values,
            location_values,
            used: BTreeSet::new(),
            inputs: BTreeMap::new(),
        }
    }

    pub(super) fn render(&mut self, template: &str) -> Result<String, Error> {
        let rendered =
            render(template, self.values).map_err(|source| template_error(self.service, source))?;
        self.used.extend(rendered.used);
        Ok(rendered.text)
    }

    /// Records a template itself as an input; its values are recorded
    /// separately.
    pub(super) fn input(&mut self, key: &str, template: &str) {
        self.inputs.insert(key.to_owned(), template.to_owned());
    }

    pub(super) fn fingerprint(mut self) -> Fingerprint {
        for name in &self.used {
            if self.location_values.contains(&name.as_str()) {
                continue;
            }
            let key = match name.as_str() {
                "port" => "ports.main".to_owned(),
                // Derived from this setting, which is the one that a user
                // changes.
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

/// Returns a digest that is long enough to tell two inputs apart and reveals no
/// secret.
fn digest(input: &str) -> String {
    let digest = Sha256::digest(input.as_bytes());
    let (start, _) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    format!("{:016x}", u64::from_be_bytes(*start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_names_its_inputs_without_their_values() {
        let values = Values::from([
            ("port".to_owned(), "6379".to_owned()),
            ("port.inner".to_owned(), "1".to_owned()),
            ("redis.password".to_owned(), "secret".to_owned()),
            ("data".to_owned(), "/somewhere".to_owned()),
            ("limits.partition_bytes".to_owned(), "1048576".to_owned()),
        ]);
        let mut renderer = TemplateRenderer::new("redis", &values, &["data"]);
        let template = "{{port}} {{port.inner}} {{data}} {{redis.password}}";
        assert_eq!(
            renderer.render(template).expect("known placeholders"),
            "6379 1 /somewhere secret"
        );
        renderer
            .render("{{limits.partition_bytes}}")
            .expect("known placeholders");
        renderer.input("command", template);
        let fingerprint = renderer.fingerprint();
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
