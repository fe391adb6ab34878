//! The environment of the programs that fanout starts. Nothing of the caller's
//! is handed on by default: `PYTHONHOME`, `JAVA_TOOL_OPTIONS`, `HTTP_PROXY`,
//! `TZ`, `LD_PRELOAD` and the like would make a server another one in each
//! shell. What a server needs besides, the operator sets in
//! `services.<name>.env`.
//!
//! | for | of the caller's environment |
//! |---|---|
//! | servers, and programs that are asked for their version | the absolute folders of `PATH` |
//! | fanout itself, as the pipeline | also its settings, and where the roots of HTTPS are |
//! | Maven and pip | also what says how packages are reached |

use std::{collections::BTreeMap, env, ffi::OsString, path::Path, process::Command};

/// Variables of fanout's own, which servers are not given: they may hold the
/// secrets of other servers.
const OWN: &str = "FANOUT_";

/// Those that are about one command's output.
const ABOUT_OUTPUT: [&str; 3] = ["FANOUT_OUTPUT", "FANOUT_COLOR", "FANOUT_RUNTIME"];

/// Which certificates HTTPS is checked against, where those of the system are
/// elsewhere.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How Maven and pip reach their registries. `JAVA_TOOL_OPTIONS`, `CLASSPATH`
/// and the `PYTHON…` variables are none of these: they change the interpreter.
const OF_INSTALLS: [&str; 34] = [
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LOGNAME",
    "MAVEN_ARGS",
    "MAVEN_OPTS",
    "NETRC",
    "NO_PROXY",
    "PIP_CACHE_DIR",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_KEYRING_PROVIDER",
    "PIP_NO_INDEX",
    "PIP_PROXY",
    "PIP_RETRIES",
    "PIP_TIMEOUT",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "TMPDIR",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The caller's variables, as far as they are text.
fn callers() -> impl Iterator<Item = (String, String)> {
    let texts = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(texts)
}

/// What every program gets.
fn basic(home: &Path) -> BTreeMap<String, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A relative folder would be another one for each program.
    let folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
    let path = env::join_paths(folders).unwrap_or_default();
    [
        ("PATH", path.to_string_lossy().into_owned()),
        ("HOME", home.display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TZ", "UTC".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// For a server. `home` is a folder in which it finds no settings of anybody's.
#[must_use]
pub fn of_server(home: &Path) -> BTreeMap<String, String> {
    basic(home)
}

/// For fanout itself, as a service that reads the settings too.
#[must_use]
pub fn of_pipeline(home: &Path) -> BTreeMap<String, String> {
    let mut environment = basic(home);
    environment.extend(callers().filter(|(name, _)| {
        let own = name.starts_with(OWN) && !ABOUT_OUTPUT.contains(&name.as_str());
        own || CERTIFICATES.contains(&name.as_str())
    }));
    environment
}

/// For Maven and pip.
#[must_use]
pub fn of_install() -> BTreeMap<String, String> {
    let home = env::home_dir().filter(|home| home.is_absolute());
    let home = home.unwrap_or_else(|| "/".into());
    let mut environment = basic(&home);
    environment.extend(callers().filter(|(name, _)| {
        let name = name.as_str();
        OF_INSTALLS.contains(&name) || CERTIFICATES.contains(&name)
    }));
    // Java asks the system's list of users for the home folder, which not every
    // user is on; others ask HOME.
    let listed = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let listed = listed.ok().flatten().map(|user| user.dir);
    if listed.is_none_or(|listed| listed != home) {
        let option = format!("'-Duser.home={}'", home.display());
        environment.insert("JDK_JAVA_OPTIONS".to_owned(), option);
    }
    environment
}

/// A program that is asked for something short, such as its version.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(basic(Path::new("/")));
    command
}
