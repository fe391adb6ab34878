//! A way to run a service, with everything filled in: what is executed, in
//! which environment, with which files, and the fingerprint of it all.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    programs::{self, Missing},
    values,
};
use crate::{
    config::Settings,
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::{
        Site,
        definition::{self, DefinitionError, Install, Way},
        resolve::Service,
    },
    template::{TemplateError, Values, render},
};

/// Variables of fanout's own, which servers are not given.
const OWN_VARIABLES: &str = "FANOUT_";

/// Those that are about one command's output.
const OUTPUT_VARIABLES: [&str; 3] = ["FANOUT_OUTPUT", "FANOUT_COLOR", "FANOUT_RUNTIME"];

/// A service ready to be prepared and started.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub way: Way,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Files in the service's `conf` folder: name → content.
    pub files: BTreeMap<String, String>,
    pub data: PathBuf,
    pub fingerprint: Fingerprint,
    /// What the machine lacks for it.
    pub missing: Vec<Missing>,
    /// Where its programs are.
    pub programs: BTreeMap<String, PathBuf>,
    values: Values,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{service} cannot be run as a process of this machine")]
    NoWay { service: String },
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
    #[error("the settings cannot be read")]
    Settings(#[from] serde_json::Error),
}

impl Failure for RecipeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoWay { .. } => Kind::Environment,
            Self::Credential { .. } => Kind::Usage,
            _ => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoWay { .. } => "no_native_way",
            Self::Credential { .. } => "credential",
            _ => "stack_definition",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Credential { .. } => Some("fanout config show".to_owned()),
            _ => None,
        }
    }
}

/// What all recipes are made with.
#[derive(Debug, Clone, Copy)]
pub struct Kitchen<'a> {
    pub site: &'a Site,
    /// With every service where it shall be.
    pub settings: &'a Settings,
    pub installs: &'a BTreeMap<String, Install>,
}

/// Fills in the way that `service` is run: the one it `recorded`, whose data is
/// there, else the first whose programs are all on the machine and new enough.
///
/// # Errors
/// When it has no native way, or its definition does not hold together.
pub fn recipe(
    service: &Service,
    recorded: Option<&str>,
    kitchen: &Kitchen<'_>,
) -> Result<Recipe, RecipeError> {
    let name = &service.definition.name;
    let (way, found) = choose_way(service, recorded, kitchen)?;
    let data = kitchen.site.dir().data(name, &way.variant);
    let values = values::of(service, &way, &found.paths, kitchen)?;
    check_credentials(&way, &values)?;
    let mut recipe = Recipe {
        data: data.clone(),
        command: Vec::new(),
        env: BTreeMap::new(),
        files: BTreeMap::new(),
        fingerprint: Fingerprint::new(),
        missing: found.missing,
        programs: found.paths,
        values,
        way,
    };
    recipe.fill(service, kitchen)?;
    Ok(recipe)
}

/// Refuses what would break the files and commands that it is written into.
fn check_credentials(way: &Way, values: &Values) -> Result<(), RecipeError> {
    let files: Result<Vec<&str>, _> = way
        .files
        .values()
        .map(|name| definition::asset(name))
        .collect();
    let inputs = way.prepare.iter().map(|step| step.input.as_str());
    let texts: Vec<&str> = files?.into_iter().chain(inputs).collect();
    match values::unwritable(&texts, values) {
        Some((setting, what, why)) => Err(RecipeError::Credential { setting, what, why }),
        None => Ok(()),
    }
}

fn choose_way(
    service: &Service,
    recorded: Option<&str>,
    kitchen: &Kitchen<'_>,
) -> Result<(Way, programs::Found), RecipeError> {
    let name = &service.definition.name;
    let ways = &service.definition.native;
    let dir = kitchen.site.dir();
    let kept = ways.iter().find(|way| {
        recorded == Some(way.variant.as_str()) && dir.data(name, &way.variant).exists()
    });
    let candidates: Vec<&Way> = kept.map_or_else(|| ways.iter().collect(), |way| vec![way]);
    let mut last = None;
    for way in &candidates {
        let data = dir.data(name, &way.variant);
        let mut found = programs::find_for(&data, &way.programs, name);
        if candidates.len() > 1 {
            // One that is too old is no reason not to go another way.
            let old = programs::too_old(&way.programs, &found.paths, name);
            found.missing.extend(old);
        }
        if found.missing.is_empty() {
            return Ok(((*way).clone(), found));
        }
        last = Some(((*way).clone(), found));
    }
    last.ok_or_else(|| RecipeError::NoWay {
        service: name.clone(),
    })
}

impl Recipe {
    /// Fills in command, environment and files, and takes the fingerprint.
    fn fill(&mut self, service: &Service, kitchen: &Kitchen<'_>) -> Result<(), RecipeError> {
        let mut filler = Filler::new(&service.definition.name, &self.values);
        for argument in &self.way.command {
            self.command.push(filler.fill(argument)?);
        }
        filler.input("command", &self.way.command.join("\0"));
        filler.input("variant", &self.way.variant);
        self.env = inherited(self.way.settings);
        for (variable, template) in &self.way.env {
            let value = filler.fill(template)?;
            filler.input(&format!("env.{variable}"), template);
            if value.is_empty() {
                self.env.remove(variable);
            } else {
                self.env.insert(variable.clone(), value);
            }
        }
        if let Some(wishes) = kitchen.settings.services.get(&service.definition.name) {
            for (variable, value) in &wishes.env {
                filler.input(&format!("env.{variable}"), value);
                self.env.insert(variable.clone(), value.clone());
            }
        }
        for (file, asset) in &self.way.files {
            let template = definition::asset(asset)?;
            self.files.insert(file.clone(), filler.fill(template)?);
            filler.input(&format!("files.{file}"), template);
        }
        if self.way.settings {
            filler
                .used
                .extend(values::flat(kitchen.settings)?.into_keys());
        }
        if filler.used.contains("fanout") {
            filler.input("fanout.build", &build(&kitchen.site.fanout));
        }
        self.fingerprint = filler.fingerprint();
        Ok(())
    }

    /// Fills a text of the preparation, for which `data` is elsewhere.
    ///
    /// # Errors
    /// When it names what is not there.
    pub fn fill_with_data(&self, template: &str, data: &str) -> Result<String, TemplateError> {
        let mut values = self.values.clone();
        values.insert("data".to_owned(), data.to_owned());
        Ok(render(template, &values)?.text)
    }
}

/// fanout's own environment. Its `FANOUT_…` variables, which may hold secrets
/// of other servers, go only to fanout itself.
#[must_use]
pub fn inherited(with_own: bool) -> BTreeMap<String, String> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            let passed_on = with_own && !OUTPUT_VARIABLES.contains(&name.as_str());
            passed_on || !name.starts_with(OWN_VARIABLES)
        })
        .collect()
}

/// Differs where this program's file was replaced by another.
fn build(program: &Path) -> String {
    let modified = fs::metadata(program).and_then(|file| file.modified());
    format!("{} {modified:?}", env!("CARGO_PKG_VERSION"))
}

/// Fills texts and remembers what went into them.
struct Filler<'a> {
    service: &'a str,
    values: &'a Values,
    used: BTreeSet<String>,
    inputs: BTreeMap<String, String>,
}

impl<'a> Filler<'a> {
    fn new(service: &'a str, values: &'a Values) -> Self {
        Self {
            service,
            values,
            used: BTreeSet::new(),
            inputs: BTreeMap::new(),
        }
    }

    fn fill(&mut self, template: &str) -> Result<String, RecipeError> {
        let rendered = render(template, self.values).map_err(|source| RecipeError::Template {
            service: self.service.to_owned(),
            source,
        })?;
        self.used.extend(rendered.used);
        Ok(rendered.text)
    }

    /// The template itself: with its values beside it, each cause has a name.
    fn input(&mut self, key: &str, template: &str) {
        self.inputs.insert(key.to_owned(), template.to_owned());
    }

    fn fingerprint(mut self) -> Fingerprint {
        for name in &self.used {
            if values::PLACES.contains(&name.as_str()) {
                continue;
            }
            let key = match name.as_str() {
                "port" => "ports.main".to_owned(),
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
        ]);
        let mut filler = Filler::new("redis", &values);
        let template = "{{port}} {{port.inner}} {{data}} {{redis.password}}";
        assert_eq!(
            filler.fill(template).expect("known"),
            "6379 1 /somewhere secret"
        );
        filler.input("command", template);
        let fingerprint = filler.fingerprint();
        let keys: Vec<&str> = fingerprint.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["command", "ports.inner", "ports.main", "redis.password"]
        );
        assert!(!fingerprint.values().any(|digest| digest.contains("secret")));
    }
}
