//! What is downloaded once for all projects of a user: made in a folder beside
//! its place and renamed when whole, so that a killed install leaves nothing
//! that looks like one.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::Child,
    time::sleep,
};

use super::{
    account,
    checksums::{self, ChecksumError},
    environment,
    process::{self, Outlives, ProcessError},
    programs::{self, Missing},
    python,
    task::{self, Launch},
};
use crate::{
    failure::{Failure, Kind},
    plan::Fingerprint,
    progress::{Event, Progress, Unit},
    stack::{
        Site,
        definition::{self, DefinitionError, Install, Program, Source},
        files,
        lock::Lock,
    },
};

/// An install that neither says nor writes anything for so long has stalled.
const STALL: Duration = Duration::from_mins(3);

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(500);

/// How many of its last lines a failed install shows.
const SHOWN_LINES: usize = 15;

/// Why an install is not there.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{name} is not installed, and --pull never forbids to")]
    Forbidden { name: String },
    #[error(
        "{name} could not be installed: {command} ended with {status}{}",
        super::process::lines(output)
    )]
    Failed {
        name: String,
        command: String,
        status: String,
        output: Vec<String>,
    },
    #[error("{name} could not be installed: {command} did nothing for {} s{}", STALL.as_secs(), super::process::lines(output))]
    Stalled {
        name: String,
        command: String,
        output: Vec<String>,
    },
    #[error("{name} was downloaded and is not used")]
    Checksum {
        name: String,
        #[source]
        source: ChecksumError,
    },
    #[error("{} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Failure for InstallError {
    fn kind(&self) -> Kind {
        match self {
            Self::Stalled { .. } => Kind::NotReady,
            Self::Forbidden { .. }
            | Self::Failed { .. }
            | Self::Checksum { .. }
            | Self::File { .. } => Kind::Environment,
            Self::Definition(error) => error.kind(),
            Self::Process(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "install_forbidden",
            Self::Failed { .. } => "install_failed",
            Self::Stalled { .. } => "install_stalled",
            Self::Checksum { .. } => "install_checksum",
            Self::File { .. } => "cache_unreachable",
            Self::Definition(error) => error.code(),
            Self::Process(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Forbidden { .. } => Some("fanout up --pull missing".to_owned()),
            Self::Failed { .. } | Self::Stalled { .. } => Some(
                "check that the package registry (or its mirror) is reachable, then: fanout up"
                    .to_owned(),
            ),
            Self::Checksum { .. } => Some(
                "find out who changed the file; where Maven's own copy (~/.m2/repository) is \
                 damaged, remove it there, then: fanout up"
                    .to_owned(),
            ),
            Self::File { .. } => {
                Some("name a folder of your own: FANOUT_CACHE=<folder> fanout up".to_owned())
            }
            Self::Definition(_) | Self::Process(_) => None,
        }
    }
}

/// Whether `install` is there, whole, and works.
#[must_use]
pub fn is_there(site: &Site, install: &Install) -> bool {
    let place = site.install_folder(install);
    match install.from {
        Source::Maven { .. } => place.is_dir(),
        Source::Python { .. } => {
            let account = account::unprivileged("python").ok().flatten();
            python::works(&place, account.as_ref())
        }
    }
}

/// What the machine lacks to install it.
#[must_use]
pub fn missing_programs(name: &str, install: &Install) -> Vec<Missing> {
    let wanted_by = format!("installing {name}");
    match install.from {
        Source::Maven { .. } => {
            let maven = Program {
                debian: "maven".to_owned(),
                also_in: Vec::new(),
                beside: None,
                at_least: None,
                made_by: None,
            };
            programs::find(&BTreeMap::from([("mvn".to_owned(), maven)]), &wanted_by).missing
        }
        Source::Python { .. } => {
            let account = account::unprivileged(name).ok().flatten();
            let unfit = python::find(account.as_ref()).err();
            unfit
                .map(|unfit| unfit.missing(wanted_by))
                .into_iter()
                .collect()
        }
    }
}

/// Installs, unless it is there and not to be made `anew`. Waits where another
/// fanout installs the same.
///
/// # Errors
/// When a command fails or stalls, with its last lines.
pub async fn ensure(
    site: &Site,
    name: &str,
    install: &Install,
    anew: bool,
    progress: &dyn Progress,
) -> Result<(), InstallError> {
    let place = site.install_folder(install);
    let lock_path = place.with_file_name(format!("{}.lock", install.folder));
    if let Some(folder) = place.parent() {
        files::shared_folder(folder).map_err(|source| InstallError::File {
            path: folder.to_owned(),
            source,
        })?;
    }
    let _lock = take_turn(&lock_path, name, progress).await?;
    if !anew && is_there(site, install) {
        return Ok(());
    }
    let partial = place.with_file_name(format!("{}.partial", install.folder));
    let on_partial = |source| InstallError::File {
        path: partial.clone(),
        source,
    };
    process::end_holders(&partial.with_extension("tether"), name).await?;
    remove(&partial).map_err(on_partial)?;
    files::own_folder(&partial, 0o755).map_err(on_partial)?;
    progress.report(Event::Doing {
        task: name,
        what: "installing",
    });
    for command in commands(install, &partial)? {
        watch(site, name, command, &partial, progress).await?;
    }
    if let Source::Maven {
        into, checksums, ..
    } = &install.from
    {
        let list = definition::asset(checksums)?;
        checksums::check(&partial.join(into), list).map_err(|source| InstallError::Checksum {
            name: name.to_owned(),
            source,
        })?;
    }
    open_to_all(&partial).map_err(on_partial)?;
    exchange(&partial, &place).map_err(|source| InstallError::File {
        path: place,
        source,
    })?;
    progress.report(Event::Done {
        task: name,
        what: "installed",
    });
    Ok(())
}

/// Lets everybody read what was installed, whatever the umask: where fanout is
/// root, servers run from it that are not.
fn open_to_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_to_all(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            let all = if mode & 0o100 == 0 { 0o444 } else { 0o555 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode | all))?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Puts what is whole in its place. It is on the disk before it has its name,
/// and what was there is put aside before it is removed, so that whatever
/// happens, what is in its place is whole.
fn exchange(partial: &Path, place: &Path) -> io::Result<()> {
    nix::unistd::syncfs(fs::File::open(partial)?)?;
    let old = partial.with_extension("old");
    remove(&old)?;
    match fs::rename(place, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(partial, place)?;
    remove(&old)
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn take_turn(path: &Path, name: &str, progress: &dyn Progress) -> Result<Lock, InstallError> {
    let mut told = false;
    loop {
        let tried = Lock::try_at(path).map_err(|source| InstallError::File {
            path: path.to_owned(),
            source,
        })?;
        let holder = match tried {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        if !told {
            let what = format!("waiting for {holder}, which installs it");
            progress.report(Event::Doing {
                task: name,
                what: &what,
            });
            told = true;
        }
        sleep(TICK).await;
    }
}

/// The commands that make the install in `partial`.
fn commands(install: &Install, partial: &Path) -> Result<Vec<Vec<String>>, InstallError> {
    let on_file = |path: &Path| {
        let path = path.to_owned();
        |source| InstallError::File { path, source }
    };
    let place = partial.display();
    let words = |line: &[&str]| -> Vec<String> { line.iter().map(ToString::to_string).collect() };
    match &install.from {
        Source::Maven { pom, into, .. } => {
            let file = partial.join("pom.xml");
            let text = definition::asset(pom)?;
            files::write_atomically(&file, text.as_bytes()).map_err(on_file(&file))?;
            let (file, output) = (file.display().to_string(), partial.join(into));
            let output = format!("-DoutputDirectory={}", output.display());
            let goal = "dependency:copy-dependencies";
            let plain = "-Dstyle.color=never";
            let strict = "--strict-checksums";
            Ok(vec![words(&[
                "mvn", "-B", strict, plain, "-f", &file, goal, &output,
            ])])
        }
        Source::Python { requirements } => {
            let account = account::unprivileged("python").ok().flatten();
            let found = python::find(account.as_ref());
            let found = found.unwrap_or_else(|_| PathBuf::from("python3"));
            let file = partial.join("requirements.txt");
            let text = definition::asset(requirements)?;
            files::write_atomically(&file, text.as_bytes()).map_err(on_file(&file))?;
            let python = format!("{place}/bin/python3");
            let mut pip = words(&[&python, "-m", "pip", "install", "--no-deps", "--no-input"]);
            // What has to be built would fetch more than the list has.
            pip.extend(words(&["--require-hashes", "--only-binary=:all:"]));
            pip.extend(words(&[
                "--progress-bar=off",
                "--disable-pip-version-check",
            ]));
            pip.extend(words(&["-r", &file.display().to_string()]));
            Ok(vec![
                words(&[
                    &found.display().to_string(),
                    "-m",
                    "venv",
                    &place.to_string(),
                ]),
                pip,
            ])
        }
    }
}

/// Runs a command to its end, telling how much it has written. It holds the
/// install's tether, so what a killed `up` left of it is found.
async fn watch(
    site: &Site,
    name: &str,
    command: Vec<String>,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<(), InstallError> {
    let program = command.first().cloned().unwrap_or_default();
    let failed = |status: String, output: Vec<String>| InstallError::Failed {
        name: name.to_owned(),
        command: program.clone(),
        status,
        output,
    };
    let launch = Launch {
        record: None,
        tether: partial.with_extension("tether"),
        command,
        env: environment::of_install(),
        folder: partial.to_owned(),
        umask: task::PUBLIC,
        input: String::new(),
        account: None,
        fingerprint: Fingerprint::new(),
    };
    let outputs = (Stdio::piped(), Stdio::piped());
    let mut child = process::spawn(&site.fanout, &launch, outputs, Outlives::Nobody)
        .await
        .map_err(|error| failed(error.to_string(), Vec::new()))?;
    let said = Said::default();
    said.follow(child.stdout.take());
    said.follow(child.stderr.take());
    match outlast(&mut child, name, &said, progress).await {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            // The last lines may still be on their way.
            sleep(TICK).await;
            Err(failed(status.to_string(), said.last_lines()))
        }
        None => Err(InstallError::Stalled {
            name: name.to_owned(),
            command: program,
            output: said.last_lines(),
        }),
    }
}

/// Waits for the child's end; none when it stalls.
async fn outlast(
    child: &mut Child,
    name: &str,
    said: &Said,
    progress: &dyn Progress,
) -> Option<std::process::ExitStatus> {
    let pid = child.id();
    let mut seen = (0, 0);
    let mut last_change = Instant::now();
    loop {
        tokio::select! {
            status = child.wait() => return status.ok(),
            () = sleep(TICK) => {}
        }
        let now = (
            pid.and_then(written_bytes).unwrap_or_default(),
            said.count(),
        );
        if now.0 != seen.0 {
            progress.report(Event::Advanced {
                task: name,
                done: now.0,
                total: None,
                unit: Unit::Bytes,
            });
        }
        if now != seen {
            seen = now;
            last_change = Instant::now();
        }
        if last_change.elapsed() > STALL {
            let _ = child.start_kill();
            return None;
        }
    }
}

/// Bytes that a process has written so far: a download ends up in a file.
fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("wchar: "))?
        .parse()
        .ok()
}

/// The last lines that a command has said, and how many there were.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<(VecDeque<String>, u64)>>);

impl Said {
    fn follow<R: AsyncRead + Unpin + Send + 'static>(&self, stream: Option<R>) {
        let Some(stream) = stream else { return };
        let said = self.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            // Not every tool writes UTF-8, and one whose pipe closes ends.
            while stream
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|read| read > 0)
            {
                said.add(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
    }

    fn add(&self, line: String) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.1 += 1;
        said.0.push_back(line);
        if said.0.len() > SHOWN_LINES {
            said.0.pop_front();
        }
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn last_lines(&self) -> Vec<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.0.iter().cloned().collect()
    }
}
