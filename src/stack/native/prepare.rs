//! What a service needs on disk before its process starts: its files, and its
//! data, which is made beside its place and renamed when it is whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::Gid;

use super::{
    account::{self, Account, AccountError, Needed},
    process::{self, Outlives},
    recipe::Recipe,
    task::{self, Launch},
};
use crate::{
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::{
        Site,
        definition::{self, Prepare, User},
        files,
        home::ProjectDir,
    },
    template::TemplateError,
};

/// How many lines of a failed command are shown.
const SHOWN_LINES: usize = 12;

/// Why a service's folders are not ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("{} cannot be made", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the data of {service} could not be made: {command} ended with {status}{}",
        super::process::lines(output)
    )]
    Command {
        service: String,
        command: String,
        status: String,
        output: Vec<String>,
    },
    #[error("the data of {service} was not made within {seconds} s")]
    TooLong { service: String, seconds: u64 },
    #[error("the definition of {service} cannot be filled in")]
    Template {
        service: String,
        #[source]
        source: TemplateError,
    },
    #[error(transparent)]
    Account(#[from] AccountError),
}

impl Failure for PrepareError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { .. } => Kind::Environment,
            Self::Command { .. } | Self::Template { .. } => Kind::Failed,
            Self::TooLong { .. } => Kind::NotReady,
            Self::Account(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "home_unreachable",
            Self::Command { .. } => "prepare_failed",
            Self::Template { .. } => "stack_definition",
            Self::TooLong { .. } => "prepare_not_ready",
            Self::Account(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File { .. } => {
                Some("name a folder of your own: FANOUT_HOME=<folder> fanout …".to_owned())
            }
            Self::Account(error) => error.hint(),
            Self::Command { .. } => Some("fanout doctor".to_owned()),
            Self::TooLong { .. } => Some("fanout up --timeout 10m".to_owned()),
            Self::Template { .. } => None,
        }
    }
}

/// Makes the folders that all services share.
///
/// # Errors
/// When the home takes no folder.
pub fn project_folders(dir: &ProjectDir) -> Result<(), PrepareError> {
    for (folder, mode) in [
        ("data", files::passable()),
        ("conf", files::passable()),
        ("logs", 0o700),
        ("run", 0o700),
    ] {
        let path = dir.path().join(folder);
        files::own_folder(&path, mode).map_err(file_error(&path))?;
    }
    Ok(())
}

/// Whom the service is to run as.
///
/// # Errors
/// When root's rights have to be dropped and there is nobody to drop them to,
/// or what the service needs is closed to them.
pub fn account(
    dir: &ProjectDir,
    service: &str,
    recipe: &Recipe,
) -> Result<Option<Account>, AccountError> {
    let account = match recipe.way.user {
        User::Own => None,
        User::Unprivileged => account::unprivileged(service)?,
    };
    if let Some(account) = &account {
        let data = dir.all_data().join(service);
        account.check_reach(service, Needed::Data, &data)?;
        for install in &recipe.installs {
            account.check_reach(service, Needed::Install, install)?;
        }
        for program in recipe.programs.values() {
            account.check_reach(service, Needed::Program, program)?;
        }
    }
    Ok(account)
}

/// Writes the service's files and makes its data, where it has none.
///
/// # Errors
/// When the disk takes nothing or a command of the preparation fails.
pub async fn prepare(
    site: &Site,
    service: &str,
    recipe: &Recipe,
    account: Option<&Account>,
) -> Result<(), PrepareError> {
    let conf = site.dir().conf(service);
    if recipe.data.exists() {
        // Nothing of the service holds its tether any more.
        if let Some(name) = &recipe.way.pid_file {
            let path = recipe.data.join(name);
            remove_file(&path).map_err(file_error(&path))?;
        }
        if let Some(account) = account {
            account.take_over(&recipe.data)?;
        }
        return write_files(&conf, &recipe.files, account);
    }
    let new = recipe.data.with_extension("new");
    remove(&new)?;
    match account {
        Some(account) => account.new_folder(&new)?,
        None => files::own_folder(&new, 0o700).map_err(file_error(&new))?,
    }
    let template = |source| PrepareError::Template {
        service: service.to_owned(),
        source,
    };
    let place = new.display().to_string();
    let mut files = recipe.files.clone();
    for (name, asset) in &recipe.way.files {
        if let Ok(text) = definition::asset(asset) {
            let text = recipe.fill_with_data(text, &place).map_err(template)?;
            files.insert(name.clone(), text);
        }
    }
    write_files(&conf, &files, account)?;
    for step in &recipe.way.prepare {
        let fill = |text: &String| recipe.fill_with_data(text, &place).map_err(template);
        let step = Prepare {
            run: step.run.iter().map(fill).collect::<Result<_, _>>()?,
            input: fill(&step.input)?,
        };
        run(site, service, recipe, step, (&new, account)).await?;
    }
    write_files(&conf, &recipe.files, account)?;
    fs::rename(&new, &recipe.data).map_err(file_error(&recipe.data))
}

/// Runs one command of the preparation. It holds the service's tether, so what
/// a killed `up` left of it is found.
async fn run(
    site: &Site,
    service: &str,
    recipe: &Recipe,
    step: Prepare,
    place: (&Path, Option<&Account>),
) -> Result<(), PrepareError> {
    let command = step.run.first().cloned().unwrap_or_default();
    let failed = |status: String, output: Vec<String>| PrepareError::Command {
        service: service.to_owned(),
        command,
        status,
        output,
    };
    let launch = Launch {
        record: None,
        tether: site.dir().tether(service),
        command: step.run,
        env: recipe.env.clone(),
        folder: place.0.to_owned(),
        umask: task::PRIVATE,
        input: format!("{}\n", step.input),
        account: place.1.cloned(),
        fingerprint: Fingerprint::new(),
    };
    let outputs = (Stdio::piped(), Stdio::piped());
    let output = async {
        let child = process::spawn(&site.fanout, &launch, outputs, Outlives::Nobody).await?;
        child.wait_with_output().await
    };
    let output = match output.await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => output,
        Err(error) => return Err(failed(error.to_string(), Vec::new())),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec();
    Err(failed(output.status.to_string(), shown))
}

/// Files that may hold secrets. They stay fanout's: a server of another user
/// may read them, and cannot lead fanout elsewhere by what it puts there.
fn write_files(
    conf: &Path,
    texts: &std::collections::BTreeMap<String, String>,
    account: Option<&Account>,
) -> Result<(), PrepareError> {
    let reader = account.map(|account| Gid::from_raw(account.gid));
    files::readable_folder(conf, reader).map_err(file_error(conf))?;
    for (name, text) in texts {
        let path = conf.join(name);
        files::write_for(reader, &path, text.as_bytes()).map_err(file_error(&path))?;
    }
    Ok(())
}

/// Removes a folder, if it is there.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove(path: &Path) -> Result<(), PrepareError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    |source| PrepareError::File { path, source }
}
