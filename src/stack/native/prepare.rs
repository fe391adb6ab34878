//! Prepares a service on disk before its process starts: its files and its
//! data. The data is created in a temporary folder and renamed when complete.

use std::{fs, io, path::Path, process::Stdio, time::Duration};

use nix::unistd::Gid;

use super::{
    account::{self, Account, Needed},
    process::{self, OnDrop},
    process_spec::ProcessSpec,
    task::{self, Launch},
};
use crate::{
    failure::{Command, Error, Kind},
    stack::{
        Site,
        definition::{self, Prepare, User},
        files,
        home::{OTHER_HOME, ProjectDir},
        plan::Fingerprint,
        renderer,
    },
};

/// Number of output lines shown for a failed command.
const SHOWN_LINES: usize = 12;

/// Returns the error for data that was not created in time.
pub(in crate::stack) fn timeout_error(service: &str, timeout: Duration) -> Error {
    let seconds = timeout.as_secs();
    let message = format!("the data of {service} was not created within {seconds} s");
    Error::new(Kind::NotReady, "prepare_not_ready", message)
        .with_hint(Command::new("up").flag("--timeout", "10m"))
}

/// Creates the folders that all services share.
///
/// # Errors
/// If a folder cannot be created.
pub fn project_folders(dir: &ProjectDir) -> Result<(), Error> {
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

/// Returns the user that the service runs as; `None` means the current one.
///
/// # Errors
/// If root's rights must be dropped and no suitable user exists, or the user
/// cannot reach what the service needs.
pub fn account(
    dir: &ProjectDir,
    service: &str,
    spec: &ProcessSpec,
) -> Result<Option<Account>, Error> {
    let account = match spec.way.user {
        User::Own => None,
        User::Unprivileged => account::unprivileged(service)?,
    };
    if let Some(account) = &account {
        let data = dir.all_data().join(service);
        account.check_reach(service, Needed::Data, &data)?;
        for install in &spec.installs {
            account.check_reach(service, Needed::Install, install)?;
        }
        for program in spec.programs.values() {
            account.check_reach(service, Needed::Program, program)?;
        }
    }
    Ok(account)
}

/// Writes the service's files and creates its data, if it has none.
///
/// # Errors
/// If a file cannot be written or a command fails.
pub async fn prepare(
    site: &Site,
    service: &str,
    spec: &ProcessSpec,
    account: Option<&Account>,
) -> Result<(), Error> {
    let conf = site.dir().conf(service);
    if spec.data.exists() {
        // No process of the service is left at this point.
        if let Some(name) = &spec.way.pid_file {
            let path = spec.data.join(name);
            remove_file(&path).map_err(file_error(&path))?;
        }
        if let Some(account) = account {
            account.change_owner_of_data(&spec.data)?;
        }
        return write_files(&conf, &spec.files, account);
    }
    let new = spec.data.with_extension("new");
    remove(&new)?;
    match account {
        Some(account) => account.create_folder(&new)?,
        None => files::own_folder(&new, 0o700).map_err(file_error(&new))?,
    }
    let template = |source| renderer::template_error(service, source);
    let data = new.display().to_string();
    let mut files = spec.files.clone();
    for (name, asset) in &spec.way.files {
        if let Ok(text) = definition::asset(asset) {
            let text = spec.render_with_data(text, &data).map_err(template)?;
            files.insert(name.clone(), text);
        }
    }
    write_files(&conf, &files, account)?;
    for step in &spec.way.prepare {
        let fill = |text: &String| spec.render_with_data(text, &data).map_err(template);
        let step = Prepare {
            run: step.run.iter().map(fill).collect::<Result<_, _>>()?,
            input: fill(&step.input)?,
        };
        run(site, service, spec, step, (&new, account)).await?;
    }
    write_files(&conf, &spec.files, account)?;
    fs::rename(&new, &spec.data).map_err(file_error(&spec.data))
}

/// Runs one command of the preparation. It holds the service's tether, so that
/// it is found if `up` is killed.
async fn run(
    site: &Site,
    service: &str,
    spec: &ProcessSpec,
    step: Prepare,
    (data, account): (&Path, Option<&Account>),
) -> Result<(), Error> {
    let command = step.run.first().cloned().unwrap_or_default();
    let failed = |status: String, output: &[String]| {
        let output = process::lines(output);
        let message = format!(
            "the data of {service} could not be created: {command} ended with {status}{output}"
        );
        Error::new(Kind::Failed, "prepare_failed", message).with_hint(Command::new("doctor"))
    };
    let launch = Launch {
        record: None,
        tether: site.dir().tether(service),
        command: step.run,
        env: spec.env.clone(),
        folder: data.to_owned(),
        umask: task::PRIVATE,
        input: format!("{}\n", step.input),
        account: account.cloned(),
        fingerprint: Fingerprint::new(),
    };
    let outputs = (Stdio::piped(), Stdio::piped());
    let output = async {
        let child = process::spawn(&site.fanout, &launch, outputs, OnDrop::Kill).await?;
        child.wait_with_output().await
    };
    let output = match output.await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => output,
        Err(error) => return Err(failed(error.to_string(), &[])),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let last_lines = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    Err(failed(output.status.to_string(), last_lines))
}

/// Writes files that may contain secrets. fanout keeps owning them: a server
/// running as another user can read them, but cannot redirect fanout by
/// replacing them.
fn write_files(
    conf: &Path,
    texts: &std::collections::BTreeMap<String, String>,
    account: Option<&Account>,
) -> Result<(), Error> {
    let reader = account.map(|account| Gid::from_raw(account.gid));
    files::readable_folder(conf, reader).map_err(file_error(conf))?;
    for (name, text) in texts {
        let path = conf.join(name);
        files::write_for(reader, &path, text.as_bytes()).map_err(file_error(&path))?;
    }
    Ok(())
}

/// Removes a folder, if it exists.
///
/// # Errors
/// If something in the folder cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file, if it exists.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let message = format!("cannot create {}", path.display());
    |source| {
        Error::new(Kind::Environment, "home_unreachable", message)
            .with_hint(OTHER_HOME)
            .caused_by(source)
    }
}
