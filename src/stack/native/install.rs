//! Installs: files downloaded once for all projects of a user. An install is
//! created in a temporary folder and renamed when complete, so that an
//! interrupted one leaves nothing that looks complete.

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
    account, checksums, environment,
    process::{self, OnDrop},
    programs::{self, Missing},
    python,
    task::{self, Launch},
};
use crate::{
    failure::{Command, Error, Hint, Kind},
    progress::{Event, Progress, Unit},
    stack::{
        Site,
        definition::{self, Install, Program, Source},
        files,
        lock::Lock,
        plan::Fingerprint,
    },
};

/// An install without output or writes for this long has stalled.
const STALL: Duration = Duration::from_mins(3);

/// Interval between two checks.
const TICK: Duration = Duration::from_millis(500);

/// Number of output lines shown for a failed install.
const SHOWN_LINES: usize = 15;

/// Returns the error for a missing install that must not be installed.
#[must_use]
pub fn forbidden(name: &str) -> Error {
    let message = format!("{name} is not installed, and --pull never forbids installing it");
    Error::new(Kind::Environment, "install_forbidden", message)
        .with_hint(Command::new("up").flag("--pull", "missing"))
}

/// Returns the error for an install whose command did not succeed.
fn not_installed(kind: Kind, code: &'static str, name: &str, problem: &str) -> Error {
    let hint = "check that the package registry (or its mirror) is reachable, then: ";
    Error::new(
        kind,
        code,
        format!("{name} could not be installed: {problem}"),
    )
    .with_hint(Hint::from(hint).command(Command::new("up")))
}

fn file_error(path: &Path, source: io::Error) -> Error {
    let message = format!("{} cannot be used", path.display());
    let hint = Hint::from("use a folder of your own: FANOUT_CACHE=<folder> ");
    Error::new(Kind::Environment, "cache_unreachable", message)
        .with_hint(hint.command(Command::new("up")))
        .caused_by(source)
}

/// Returns whether `install` exists, is complete and works.
#[must_use]
pub fn is_installed(site: &Site, install: &Install) -> bool {
    let target = site.install_folder(install);
    match install.from {
        Source::Maven { .. } => target.is_dir(),
        Source::Python { .. } => {
            let account = account::unprivileged("python").ok().flatten();
            python::works(&target, account.as_ref())
        }
    }
}

/// Returns the programs that are missing for installing it.
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
            let problem = python::find(account.as_ref()).err();
            problem
                .map(|problem| problem.missing(wanted_by))
                .into_iter()
                .collect()
        }
    }
}

/// Installs, unless the install exists and `reinstall` is false. Waits if
/// another fanout process is installing the same.
///
/// # Errors
/// If a command fails or stalls; the error contains its last lines.
pub async fn ensure(
    site: &Site,
    name: &str,
    install: &Install,
    reinstall: bool,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let target = site.install_folder(install);
    let lock_path = target.with_file_name(format!("{}.lock", install.folder));
    if let Some(folder) = target.parent() {
        files::shared_folder(folder).map_err(|source| file_error(folder, source))?;
    }
    let _lock = wait_for_lock(&lock_path, name, progress).await?;
    if !reinstall && is_installed(site, install) {
        return Ok(());
    }
    let partial = target.with_file_name(format!("{}.partial", install.folder));
    let on_partial = |source| file_error(&partial, source);
    process::end_holders(&partial.with_extension("tether"), name).await?;
    remove(&partial).map_err(on_partial)?;
    files::own_folder(&partial, 0o755).map_err(on_partial)?;
    progress.report(Event::Doing {
        task: name,
        what: "installing",
    });
    for command in commands(install, &partial)? {
        run_command(site, name, command, &partial, progress).await?;
    }
    if let Source::Maven {
        into, checksums, ..
    } = &install.from
    {
        let list = definition::asset(checksums)?;
        checksums::check(&partial.join(into), list).map_err(|source| {
            let message = format!("{name} was downloaded but failed verification");
            let hint = "find out who changed the file; if Maven's copy (~/.m2/repository) is \
                        damaged, remove it there, then: ";
            Error::new(Kind::Environment, "install_checksum", message)
                .with_hint(Hint::from(hint).command(Command::new("up")))
                .caused_by(source)
        })?;
    }
    make_readable(&partial).map_err(on_partial)?;
    move_into_place(&partial, &target).map_err(|source| file_error(&target, source))?;
    progress.report(Event::Done {
        task: name,
        what: "installed",
    });
    Ok(())
}

/// Makes the install readable for everybody, whatever the umask. If fanout is
/// root, servers run from it as another user.
fn make_readable(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            make_readable(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            let all = if mode & 0o100 == 0 { 0o444 } else { 0o555 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode | all))?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Moves the complete install to its final path. It is flushed to disk first,
/// and the old install is moved aside before it is removed, so that the final
/// path never has an incomplete install.
fn move_into_place(partial: &Path, target: &Path) -> io::Result<()> {
    nix::unistd::syncfs(fs::File::open(partial)?)?;
    let old = partial.with_extension("old");
    remove(&old)?;
    match fs::rename(target, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(partial, target)?;
    remove(&old)
}

/// Removes a folder, if it exists.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn wait_for_lock(path: &Path, name: &str, progress: &dyn Progress) -> Result<Lock, Error> {
    let mut is_reported = false;
    loop {
        let tried = Lock::try_at(path).map_err(|source| file_error(path, source))?;
        let holder = match tried {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        if !is_reported {
            let what = format!("waiting for {holder}, which installs it");
            progress.report(Event::Doing {
                task: name,
                what: &what,
            });
            is_reported = true;
        }
        sleep(TICK).await;
    }
}

/// Returns the commands that install into `partial`.
fn commands(install: &Install, partial: &Path) -> Result<Vec<Vec<String>>, Error> {
    let folder = partial.display();
    let to_strings =
        |line: &[&str]| -> Vec<String> { line.iter().map(ToString::to_string).collect() };
    match &install.from {
        Source::Maven { pom, into, .. } => {
            let file = partial.join("pom.xml");
            let text = definition::asset(pom)?;
            files::write_atomically(&file, text.as_bytes())
                .map_err(|source| file_error(&file, source))?;
            let (file, output) = (file.display().to_string(), partial.join(into));
            let output = format!("-DoutputDirectory={}", output.display());
            let goal = "dependency:copy-dependencies";
            let plain = "-Dstyle.color=never";
            let strict = "--strict-checksums";
            Ok(vec![to_strings(&[
                "mvn", "-B", strict, plain, "-f", &file, goal, &output,
            ])])
        }
        Source::Python { requirements } => {
            let account = account::unprivileged("python").ok().flatten();
            let found = python::find(account.as_ref());
            let found = found.unwrap_or_else(|_| PathBuf::from("python3"));
            let file = partial.join("requirements.txt");
            let text = definition::asset(requirements)?;
            files::write_atomically(&file, text.as_bytes())
                .map_err(|source| file_error(&file, source))?;
            let python = format!("{folder}/bin/python3");
            let mut pip = to_strings(&[&python, "-m", "pip", "install", "--no-deps", "--no-input"]);
            // Building a package would fetch more packages than listed.
            pip.extend(to_strings(&["--require-hashes", "--only-binary=:all:"]));
            pip.extend(to_strings(&[
                "--progress-bar=off",
                "--disable-pip-version-check",
            ]));
            pip.extend(to_strings(&["-r", &file.display().to_string()]));
            Ok(vec![
                to_strings(&[
                    &found.display().to_string(),
                    "-m",
                    "venv",
                    &folder.to_string(),
                ]),
                pip,
            ])
        }
    }
}

/// Runs a command and reports how much it has written. It holds the install's
/// tether, so that it is found if `up` is killed.
async fn run_command(
    site: &Site,
    name: &str,
    command: Vec<String>,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let program = command.first().cloned().unwrap_or_default();
    let failed = |status: String, output: &[String]| {
        let output = process::lines(output);
        let problem = format!("{program} ended with {status}{output}");
        not_installed(Kind::Environment, "install_failed", name, &problem)
    };
    let launch = Launch {
        record: None,
        tether: partial.with_extension("tether"),
        command,
        env: environment::for_install(),
        folder: partial.to_owned(),
        umask: task::PUBLIC,
        input: String::new(),
        account: None,
        fingerprint: Fingerprint::new(),
    };
    let outputs = (Stdio::piped(), Stdio::piped());
    let mut child = process::spawn(&site.fanout, &launch, outputs, OnDrop::Kill)
        .await
        .map_err(|error| failed(error.to_string(), &[]))?;
    let output = RecentOutput::default();
    output.follow(child.stdout.take());
    output.follow(child.stderr.take());
    match wait_or_stall(&mut child, name, &output, progress).await {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            // The last lines may not have been read yet.
            sleep(TICK).await;
            Err(failed(status.to_string(), &output.last_lines()))
        }
        None => {
            let (stall, output) = (STALL.as_secs(), process::lines(&output.last_lines()));
            let problem = format!("{program} did nothing for {stall} s{output}");
            Err(not_installed(
                Kind::NotReady,
                "install_stalled",
                name,
                &problem,
            ))
        }
    }
}

/// Waits until the child exits. Returns `None` if it stalls.
async fn wait_or_stall(
    child: &mut Child,
    name: &str,
    output: &RecentOutput,
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
            output.count(),
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

/// Returns the number of bytes that a process has written so far, which
/// includes downloads.
fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("wchar: "))?
        .parse()
        .ok()
}

/// Last lines of a command's output, and the total number of lines.
#[derive(Debug, Clone, Default)]
struct RecentOutput(Arc<Mutex<(VecDeque<String>, u64)>>);

impl RecentOutput {
    fn follow<R: AsyncRead + Unpin + Send + 'static>(&self, stream: Option<R>) {
        let Some(stream) = stream else { return };
        let output = self.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            // Not every tool writes UTF-8, and a tool would fail if its pipe
            // were closed.
            while stream
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|read| read > 0)
            {
                output.add(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
    }

    fn add(&self, line: String) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.1 += 1;
        output.0.push_back(line);
        if output.0.len() > SHOWN_LINES {
            output.0.pop_front();
        }
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn last_lines(&self) -> Vec<String> {
        let output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.0.iter().cloned().collect()
    }
}
