//! The process spec of a service: its command, environment and files with all
//! placeholders filled in, and the fingerprint of the result.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    environment,
    programs::{self, Missing},
    render_context::RenderContext,
    values,
};
use crate::{
    failure::{Error, Kind},
    stack::{
        definition::{self, User, Way},
        log_file::LogFile,
        plan::Fingerprint,
        renderer::{self, TemplateRenderer, settings_error},
        resolve::Service,
        values::flatten_settings,
    },
    text::template::{TemplateError, Values, render},
};

/// Specification of a service's process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessSpec {
    pub way: Way,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Complete environment.
    pub env: BTreeMap<String, String>,
    /// Files in the service's `conf` folder: name → content.
    pub files: BTreeMap<String, String>,
    pub data: PathBuf,
    pub log: LogFile,
    pub fingerprint: Fingerprint,
    /// Missing programs.
    pub missing: Vec<Missing>,
    /// Paths of the programs.
    pub programs: BTreeMap<String, PathBuf>,
    /// Folders of the installs, whether they exist or not.
    pub installs: Vec<PathBuf>,
    values: Values,
}

/// Builds the process spec of `service`: for the `recorded` variant if its data
/// exists, otherwise for the first variant whose programs are all installed and
/// new enough.
///
/// # Errors
/// If the service has no native variant, or its definition is invalid.
pub fn process_spec(
    service: &Service,
    recorded: Option<&str>,
    context: &RenderContext<'_>,
) -> Result<ProcessSpec, Error> {
    let name = &service.definition.name;
    let (way, found) = choose_way(service, recorded, context)?;
    let data = context.site.dir().data(name, &way.variant);
    let values = values::native_values(service, &way, &found.paths, context);
    let values = values.map_err(settings_error)?;
    check_credentials(&way, &values)?;
    check_folder_names(&way, context)?;
    let installs = way
        .installs
        .iter()
        .filter_map(|name| context.installs.get(name));
    let installs = installs.map(|install| context.site.install_folder(install));
    let limits = &context.settings.limits;
    let mut spec = ProcessSpec {
        data: data.clone(),
        log: LogFile {
            path: context.site.dir().log(name),
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
    spec.render(service, context)?;
    Ok(spec)
}

/// Rejects credentials that would break the files and commands that contain
/// them.
fn check_credentials(way: &Way, values: &Values) -> Result<(), Error> {
    let inputs = way.prepare.iter().map(|step| step.input.as_str());
    let files = renderer::assets(way.files.values())?;
    let texts: Vec<&str> = files.into_iter().chain(inputs).collect();
    renderer::check_credentials(&texts, values)
}

/// Rejects folder names that would break the service's files.
fn check_folder_names(way: &Way, context: &RenderContext<'_>) -> Result<(), Error> {
    if way.files.is_empty() {
        return Ok(());
    }
    renderer::check_folder_name(context.site.home.path())?;
    if way.installs.is_empty() {
        return Ok(());
    }
    renderer::check_folder_name(&context.site.cache)
}

fn choose_way(
    service: &Service,
    recorded: Option<&str>,
    context: &RenderContext<'_>,
) -> Result<(Way, programs::SearchResult), Error> {
    let name = &service.definition.name;
    let ways = &service.definition.native;
    let dir = context.site.dir();
    let existing = ways.iter().find(|way| {
        recorded == Some(way.variant.as_str()) && dir.data(name, &way.variant).exists()
    });
    let candidates: Vec<&Way> = existing.map_or_else(|| ways.iter().collect(), |way| vec![way]);
    let mut incomplete = None;
    for way in &candidates {
        let data = dir.data(name, &way.variant);
        let mut found = programs::find_for(&data, &way.programs, name);
        if candidates.len() > 1 {
            // If a program is too old, another way is tried.
            let too_old = programs::too_old(&way.programs, &found.paths, name);
            found.missing.extend(too_old);
        }
        if found.missing.is_empty() {
            return Ok(((*way).clone(), found));
        }
        incomplete = Some(((*way).clone(), found));
    }
    incomplete.ok_or_else(|| {
        let message = format!("{name} cannot run as a process on this machine");
        Error::new(Kind::Environment, "no_native_way", message)
    })
}

impl ProcessSpec {
    /// Renders command, environment and files, and computes the fingerprint.
    fn render(&mut self, service: &Service, context: &RenderContext<'_>) -> Result<(), Error> {
        let mut renderer = TemplateRenderer::new(
            &service.definition.name,
            &self.values,
            &values::LOCATION_VALUES,
        );
        for argument in &self.way.command {
            self.command.push(renderer.render(argument)?);
        }
        renderer.input("command", &self.way.command.join("\0"));
        renderer.input("variant", &self.way.variant);
        if self.way.user == User::Unprivileged && nix::unistd::geteuid().is_root() {
            // A service that still runs as root is restarted.
            renderer.input("user", "unprivileged");
        }
        let home = context.site.dir().conf(&service.definition.name);
        self.env = if self.way.settings {
            environment::for_pipeline(&home)
        } else {
            environment::for_server(&home)
        };
        for (variable, text) in &self.way.env {
            let value = renderer.render(text)?;
            renderer.input(&format!("env.{variable}"), text);
            if value.is_empty() {
                self.env.remove(variable);
            } else {
                self.env.insert(variable.clone(), value);
            }
        }
        if let Some(overrides) = context.settings.services.get(&service.definition.name) {
            for (variable, value) in &overrides.env {
                renderer.input(&format!("env.{variable}"), value);
                self.env.insert(variable.clone(), value.clone());
            }
        }
        for (file, asset) in &self.way.files {
            let text = definition::asset(asset)?;
            let rendered = renderer.render(text)?;
            self.files.insert(file.clone(), rendered);
            renderer.input(&format!("files.{file}"), text);
        }
        renderer
            .used
            .extend(renderer::LOG_LIMITS.map(str::to_owned));
        if self.way.settings {
            let settings = flatten_settings(context.settings).map_err(settings_error)?;
            renderer.used.extend(settings.into_keys());
        }
        if renderer.used.contains("fanout") {
            renderer.input("fanout.build", &build_id(&context.site.fanout));
        }
        self.fingerprint = renderer.fingerprint();
        Ok(())
    }

    /// Renders a template of the preparation, with another folder as `data`.
    ///
    /// # Errors
    /// If the template has an unknown placeholder.
    pub fn render_with_data(&self, template: &str, data: &str) -> Result<String, TemplateError> {
        let mut values = self.values.clone();
        values.insert("data".to_owned(), data.to_owned());
        Ok(render(template, &values)?.text)
    }
}

/// Returns an identifier of this binary, which changes if its file is replaced.
fn build_id(program: &Path) -> String {
    let modified = fs::metadata(program).and_then(|file| file.modified());
    format!("{} {modified:?}", env!("CARGO_PKG_VERSION"))
}
