//! Environments of the programs that fanout starts. They inherit nothing by
//! default: `PYTHONHOME`, `JAVA_TOOL_OPTIONS`, `HTTP_PROXY`, `TZ`, `LD_PRELOAD`
//! and the like would make a server behave differently in each shell. The
//! operator sets what a server needs in addition in `services.<name>.env`.
//!
//! | program | inherited variables |
//! |---|---|
//! | servers, and programs run for their version | the absolute folders of `PATH` |
//! | fanout itself, as the pipeline | also its settings, and the location of the root certificates |
//! | Maven and pip | also the settings for reaching package registries |

use std::{collections::BTreeMap, env, ffi::OsString, path::Path, process::Command};

/// Prefix of fanout's variables. Servers do not get them, because they may
/// contain the secrets of other servers.
const PREFIX: &str = "FANOUT_";

/// Variables about the output of one command.
const OUTPUT_VARIABLES: [&str; 3] = ["FANOUT_OUTPUT", "FANOUT_COLOR", "FANOUT_RUNTIME"];

/// Variables with the location of the root certificates for HTTPS.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Variables for reaching the registries of Maven and pip. `JAVA_TOOL_OPTIONS`,
/// `CLASSPATH` and the `PYTHON…` variables are left out, because they change
/// the interpreter.
const INSTALL_VARIABLES: [&str; 34] = [
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

/// Returns the inherited variables that are valid Unicode.
fn inherited() -> impl Iterator<Item = (String, String)> {
    let to_text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(to_text)
}

/// Returns the variables that every program gets.
fn base_variables(home: &Path) -> BTreeMap<String, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A relative folder would depend on the working folder.
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

/// Returns the environment of a server. `home` is a folder without user
/// settings.
#[must_use]
pub fn for_server(home: &Path) -> BTreeMap<String, String> {
    base_variables(home)
}

/// Returns the environment of fanout as a service that reads the settings.
#[must_use]
pub fn for_pipeline(home: &Path) -> BTreeMap<String, String> {
    let mut environment = base_variables(home);
    environment.extend(inherited().filter(|(name, _)| {
        let is_setting = name.starts_with(PREFIX) && !OUTPUT_VARIABLES.contains(&name.as_str());
        is_setting || CERTIFICATES.contains(&name.as_str())
    }));
    environment
}

/// Returns the environment of Maven and pip.
#[must_use]
pub fn for_install() -> BTreeMap<String, String> {
    let home = env::home_dir().filter(|home| home.is_absolute());
    let home = home.unwrap_or_else(|| "/".into());
    let mut environment = base_variables(&home);
    environment.extend(inherited().filter(|(name, _)| {
        let name = name.as_str();
        INSTALL_VARIABLES.contains(&name) || CERTIFICATES.contains(&name)
    }));
    // Java reads the home folder from the user database, in which the user may
    // be missing; other programs use HOME.
    let listed = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let listed = listed.ok().flatten().map(|user| user.dir);
    if listed.is_none_or(|listed| listed != home) {
        let option = format!("'-Duser.home={}'", home.display());
        environment.insert("JDK_JAVA_OPTIONS".to_owned(), option);
    }
    environment
}

/// Returns a command that runs a program for a short output, such as its
/// version.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(base_variables(Path::new("/")));
    command
}
