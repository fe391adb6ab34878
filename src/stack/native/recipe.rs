//! A way to run a service, with everything filled in: what is executed, in
//! which environment, with which files, and the fingerprint of it all.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    environment,
    kitchen::Kitchen,
    programs::{self, Missing},
    values,
};
use crate::{
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::{
        definition::{self, User, Way},
        filler::{self, FillError, Filler},
        log_file::LogFile,
        resolve::Service,
        values::flat,
    },
    template::{TemplateError, Values, render},
};

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
    pub log: LogFile,
    pub fingerprint: Fingerprint,
    /// What the machine lacks for it.
    pub missing: Vec<Missing>,
    /// Where its programs are.
    pub programs: BTreeMap<String, PathBuf>,
    /// Where its installs are, or will be.
    pub installs: Vec<PathBuf>,
    values: Values,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{service} cannot be run as a process of this machine")]
    NoWay { service: String },
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl Failure for RecipeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoWay { .. } => Kind::Environment,
            Self::Fill(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoWay { .. } => "no_native_way",
            Self::Fill(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoWay { .. } => None,
            Self::Fill(error) => error.hint(),
        }
    }
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
    let values = values::of(service, &way, &found.paths, kitchen).map_err(FillError::from)?;
    check_credentials(&way, &values)?;
    check_places(&way, kitchen)?;
    let installs = way
        .installs
        .iter()
        .filter_map(|name| kitchen.installs.get(name));
    let installs = installs.map(|install| kitchen.site.install_folder(install));
    let limits = &kitchen.settings.limits;
    let mut recipe = Recipe {
        data: data.clone(),
        log: LogFile {
            path: kitchen.site.dir().log(name),
            max_bytes: limits.log_file_mib.saturating_mul(1 << 20),
            max_files: limits.log_files,
        },
        command: Vec::new(),
        env: BTreeMap::new(),
        files: BTreeMap::new(),
        fingerprint: Fingerprint::new(),
        missing: found.missing,
        programs: found.paths,
        installs: installs.collect(),
        values,
        way,
    };
    recipe.fill(service, kitchen)?;
    Ok(recipe)
}

/// Refuses what would break the files and commands that it is written into.
fn check_credentials(way: &Way, values: &Values) -> Result<(), FillError> {
    let inputs = way.prepare.iter().map(|step| step.input.as_str());
    let files = filler::assets(way.files.values())?;
    let texts: Vec<&str> = files.into_iter().chain(inputs).collect();
    filler::check_credentials(&texts, values)
}

/// Refuses folders that cannot be written into the service's files.
fn check_places(way: &Way, kitchen: &Kitchen<'_>) -> Result<(), FillError> {
    if way.files.is_empty() {
        return Ok(());
    }
    filler::check_place(kitchen.site.home.path())?;
    if way.installs.is_empty() {
        return Ok(());
    }
    filler::check_place(&kitchen.site.cache)
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
    fn fill(&mut self, service: &Service, kitchen: &Kitchen<'_>) -> Result<(), FillError> {
        let mut filler = Filler::new(&service.definition.name, &self.values, &values::PLACES);
        for argument in &self.way.command {
            self.command.push(filler.fill(argument)?);
        }
        filler.input("command", &self.way.command.join("\0"));
        filler.input("variant", &self.way.variant);
        if self.way.user == User::Unprivileged && nix::unistd::geteuid().is_root() {
            // One that still runs as root is started anew.
            filler.input("user", "unprivileged");
        }
        let home = kitchen.site.dir().conf(&service.definition.name);
        self.env = if self.way.settings {
            environment::of_pipeline(&home)
        } else {
            environment::of_server(&home)
        };
        for (variable, text) in &self.way.env {
            let value = filler.fill(text)?;
            filler.input(&format!("env.{variable}"), text);
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
            let text = definition::asset(asset)?;
            let filled = filler.fill(text)?;
            self.files.insert(file.clone(), filled);
            filler.input(&format!("files.{file}"), text);
        }
        filler.used.extend(filler::LOG_LIMITS.map(str::to_owned));
        if self.way.settings {
            filler.used.extend(flat(kitchen.settings)?.into_keys());
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

/// Differs where this program's file was replaced by another.
fn build(program: &Path) -> String {
    let modified = fs::metadata(program).and_then(|file| file.modified());
    format!("{} {modified:?}", env!("CARGO_PKG_VERSION"))
}
