//! Applies the layers of the configuration in order, and records for each value the layer that
//! set it.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json};

use super::{Settings, error::refused, project::Project, rules::check};
use crate::{
    failure::Error,
    secret::{SecretUrl, masked},
    text::suggest::did_you_mean,
};

/// Prefix of the environment variables that set a value.
const ENV_PREFIX: &str = "FANOUT_";

/// Variables with the prefix that are not settings: global flags and folders.
const ENV_FLAGS: &[&str] = &[
    "PROJECT",
    "RUNTIME",
    "CONFIG",
    "OUTPUT",
    "COLOR",
    "HOME",
    "CACHE",
    "LOG",
    #[cfg(feature = "crash-points")]
    "CRASH_AT",
    #[cfg(feature = "crash-points")]
    "CLOCK_FILE",
];

/// The layers of a configuration, lowest first.
#[derive(Debug, Default)]
pub struct Layers {
    pub project: Project,
    /// Recorded endpoints of the project's services, by dotted key.
    pub recorded: BTreeMap<String, SecretUrl>,
    /// Path and text of `fanout.yaml`, if it exists.
    pub file: Option<(PathBuf, String)>,
    /// The environment. Variables without the prefix are ignored.
    pub env: BTreeMap<String, String>,
    /// Flag and value by dotted key.
    pub flags: BTreeMap<String, (String, String)>,
}

/// The layer that a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Recorded when the project's services were started.
    Project,
    File(PathBuf),
    /// The default, with the port that the file sets for the service.
    Port {
        file: PathBuf,
        service: String,
    },
    Env(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Project => formatter.write_str("project"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Port { file, service } => {
                write!(
                    formatter,
                    "file {} (services.{service}.ports)",
                    file.display()
                )
            }
            Self::Env(name) => write!(formatter, "env {name}"),
            Self::Flag(name) => write!(formatter, "flag {name}"),
        }
    }
}

/// One effective value.
#[derive(Clone, PartialEq)]
pub struct Value {
    /// Dotted key: `board.window_seconds`.
    pub key: String,
    revealed: Json,
    pub origin: Origin,
}

impl Value {
    /// Returns the value with its secrets masked.
    #[must_use]
    pub fn masked(&self) -> Json {
        masked(&self.revealed)
    }

    /// Returns the unmasked value, to be revealed only where it is used.
    #[must_use]
    pub fn reveal(&self) -> &Json {
        &self.revealed
    }

    /// Replaces the value.
    pub fn set(&mut self, value: Json, origin: Origin) {
        self.revealed = value;
        self.origin = origin;
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} = {} ({})",
            self.key,
            self.masked(),
            self.origin
        )
    }
}

/// Settings, with the origin of each value.
#[derive(Debug, Clone)]
pub struct Config {
    pub settings: Settings,
    /// Ordered by key.
    pub values: Vec<Value>,
}

/// Values and their origins by dotted key, while the layers are applied.
type FlatValues = BTreeMap<String, (Json, Origin)>;

/// Applies all layers.
///
/// # Errors
/// If the file is not valid YAML or has an unknown key (reported with line and column), if a
/// variable matches no setting, or if a value has the wrong type or is out of range.
pub fn load(layers: &Layers) -> Result<Config, Error> {
    let mut flat = FlatValues::new();
    let defaults = serde_json::to_value(Settings::for_project(&layers.project));
    let defaults = defaults.map_err(inconsistent)?;
    for_each_value(defaults, |key, value| {
        flat.insert(key, (value, Origin::Default));
    });
    for (key, url) in &layers.recorded {
        set_text(&mut flat, key, url.reveal(), &Origin::Project)?;
    }
    if let Some((path, text)) = &layers.file {
        apply_file(&mut flat, path, text)?;
    }
    for (name, text) in &layers.env {
        apply_variable(&mut flat, name, text)?;
    }
    for (key, (flag, text)) in &layers.flags {
        set_text(&mut flat, key, text, &Origin::Flag(flag.clone()))?;
    }
    assemble(flat)
}

fn inconsistent(error: serde_json::Error) -> Error {
    let message = format!("the configuration is inconsistent: {error}");
    refused("config_value", message).caused_by(error)
}

/// Converts the flat values back to typed settings and checks them.
fn assemble(flat: FlatValues) -> Result<Config, Error> {
    let mut tree = Map::new();
    for (key, (value, _)) in &flat {
        insert_value(&mut tree, key, value.clone());
    }
    let settings: Settings = serde_json::from_value(Json::Object(tree)).map_err(inconsistent)?;
    check(&settings)?;
    let values = flat
        .into_iter()
        .map(|(key, (revealed, origin))| Value {
            key,
            revealed,
            origin,
        })
        .collect();
    Ok(Config { settings, values })
}

/// Applies the keys of the file. The whole document is first parsed as settings, so that a
/// wrong key or type is reported with its line and column.
fn apply_file(flat: &mut FlatValues, path: &Path, text: &str) -> Result<(), Error> {
    // Omits the lines around the mistake, because they may contain a password.
    let refuse = |error: serde_saphyr::Error| {
        let reason = with_suggestion(error.without_snippet().to_string());
        let path = path.display();
        refused(
            "config_file",
            format!("invalid configuration {path}: {reason}"),
        )
    };
    serde_saphyr::from_str::<Option<Settings>>(text).map_err(refuse)?;
    let document: Json = serde_saphyr::from_str(text).map_err(refuse)?;
    for_each_value(document, |key, value| {
        flat.insert(key, (value, Origin::File(path.to_owned())));
    });
    Ok(())
}

/// Adds a suggestion to the message about an unknown name in the file, using the known names
/// that serde lists.
fn with_suggestion(mut reason: String) -> String {
    let named = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|problem| reason.split_once(problem))
        .and_then(|(_, rest)| rest.split_once("`, expected "));
    if let Some((name, known)) = named {
        let known = known.lines().next().unwrap_or_default();
        let known = known.trim_start_matches("one of ");
        let words = known.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let suggestion = did_you_mean(name, words.filter(|word| *word != "or" && !word.is_empty()));
        reason.truncate(reason.trim_end().len());
        reason.push_str(&suggestion);
    }
    reason
}

fn apply_variable(flat: &mut FlatValues, name: &str, text: &str) -> Result<(), Error> {
    let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
        return Ok(());
    };
    if ENV_FLAGS.contains(&rest) {
        return Ok(());
    }
    if let Some(key) = key_of_variable(flat, rest) {
        return set_text(flat, &key, text, &Origin::Env(name.to_owned()));
    }
    let file_key = rest
        .strip_suffix("_FILE")
        .and_then(|rest| key_of_variable(flat, rest));
    let Some(key) = file_key else {
        let variables: Vec<String> = flat.keys().map(|key| variable(key)).collect();
        let suggestion = did_you_mean(name, variables.iter().map(String::as_str));
        return Err(refused(
            "config_unknown_variable",
            format!("environment variable {name} matches no setting{suggestion}"),
        ));
    };
    let path = PathBuf::from(text);
    let content = std::fs::read_to_string(&path).map_err(|source| {
        let message = format!("cannot read file {}, set by {name}", path.display());
        refused("config_secret_file", message).caused_by(source)
    })?;
    set_text(
        flat,
        &key,
        content.trim_end(),
        &Origin::Env(name.to_owned()),
    )
}

/// Returns the key of a variable without its prefix: `POSTGRES_URL` → `postgres.url`.
fn key_of_variable(flat: &FlatValues, rest: &str) -> Option<String> {
    flat.keys()
        .find(|key| key.replace('.', "_").eq_ignore_ascii_case(rest))
        .cloned()
}

/// Returns the variable of a key: `postgres.url` → `FANOUT_POSTGRES_URL`.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Sets a key from text, parsing it as the type of the key.
fn set_text(flat: &mut FlatValues, key: &str, text: &str, origin: &Origin) -> Result<(), Error> {
    // Omits the value, because it may come from a file with secrets.
    let bad = |expected: &str| {
        refused(
            "config_value",
            format!("{key}, set by {origin}, is not {expected}"),
        )
    };
    let value = match flat.get(key).map(|(value, _)| value) {
        Some(Json::Number(_)) => Json::from(
            text.trim()
                .parse::<u64>()
                .map_err(|_| bad("a whole number"))?,
        ),
        Some(Json::Bool(_)) => Json::from(
            text.trim()
                .parse::<bool>()
                .map_err(|_| bad("`true` or `false`"))?,
        ),
        Some(Json::Array(_)) => text.split(',').map(str::trim).collect(),
        Some(Json::Object(_)) => return Err(bad("a text value: set it in fanout.yaml")),
        _ => Json::from(text),
    };
    flat.insert(key.to_owned(), (value, origin.clone()));
    Ok(())
}

/// Calls `visit` with each `section.name` and its value. Deeper levels are defined by the user
/// (a service, the connector's properties) and are not split.
fn for_each_value(document: Json, mut visit: impl FnMut(String, Json)) {
    let Json::Object(sections) = document else {
        return;
    };
    for (section, content) in sections {
        let Json::Object(fields) = content else {
            continue;
        };
        for (name, value) in fields {
            visit(format!("{section}.{name}"), value);
        }
    }
}

/// Inserts a value at its key: the reverse of [`for_each_value`].
fn insert_value(tree: &mut Map<String, Json>, key: &str, value: Json) {
    let Some((section, name)) = key.split_once('.') else {
        return;
    };
    let fields = tree
        .entry(section)
        .or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(fields) = fields {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink_kind::SinkKind;

    fn layers(file: &str, env: &[(&str, &str)]) -> Layers {
        Layers {
            file: Some((PathBuf::from("fanout.yaml"), file.to_owned())),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Layers::default()
        }
    }

    fn origin<'a>(config: &'a Config, key: &str) -> &'a Origin {
        let value = config.values.iter().find(|value| value.key == key);
        &value.expect("a known key").origin
    }

    #[test]
    fn without_layers_the_defaults_apply() {
        let config = load(&Layers::default()).expect("defaults are valid");
        assert_eq!(config.settings, Settings::default());
    }

    #[test]
    fn each_layer_overrides_the_layers_below() {
        let mut layers = layers(
            "board:\n  window_seconds: 60\n  skew_seconds: 1\n",
            &[("FANOUT_BOARD_WINDOW_SECONDS", "70")],
        );
        let config = load(&layers).expect("valid");
        assert_eq!(config.settings.board.window_seconds, 70);
        assert_eq!(config.settings.board.skew_seconds, 1);
        assert_eq!(
            origin(&config, "board.window_seconds"),
            &Origin::Env("FANOUT_BOARD_WINDOW_SECONDS".to_owned())
        );
        layers.flags.insert(
            "board.window_seconds".to_owned(),
            ("--window".to_owned(), "80".to_owned()),
        );
        let config = load(&layers).expect("valid");
        assert_eq!(config.settings.board.window_seconds, 80);
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_column() {
        let error = load(&layers("board:\n  windw_seconds: 60\n", &[])).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("windw_seconds"), "{text}");
        assert!(text.contains("line 2"), "{text}");
        assert!(
            text.ends_with("(did you mean \"window_seconds\"?)"),
            "{text}"
        );
    }

    #[test]
    fn a_variable_for_a_folder_is_not_a_setting() {
        let folders = [("FANOUT_HOME", "/x"), ("FANOUT_CACHE", "/y")];
        assert!(load(&layers("", &folders)).is_ok());
    }

    #[test]
    fn an_unknown_variable_is_refused() {
        let error = load(&layers("", &[("FANOUT_BORD_KEY", "x")])).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "environment variable FANOUT_BORD_KEY matches no setting \
             (did you mean \"FANOUT_BOARD_KEY\"?)"
        );
    }

    #[test]
    fn a_secret_can_be_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "redis://:pw@127.0.0.1:1\n").expect("written");
        let path = file.path().to_str().expect("utf-8");
        let config = load(&layers("", &[("FANOUT_REDIS_URL_FILE", path)])).expect("valid");
        assert_eq!(
            config.settings.redis.url.reveal(),
            "redis://:pw@127.0.0.1:1"
        );
    }

    #[test]
    fn the_connectors_properties_keep_their_dots() {
        let text = "connector:\n  properties:\n    poll.interval.ms: \"50\"\n";
        let config = load(&layers(text, &[])).expect("valid");
        assert_eq!(
            config.settings.connector.properties["poll.interval.ms"],
            "50"
        );
    }

    #[test]
    fn a_list_can_be_set_by_the_environment() {
        let config = load(&layers("", &[("FANOUT_PIPELINE_SINKS", "redis, http")]));
        let sinks = config.expect("valid").settings.pipeline.sinks;
        assert_eq!(*sinks, [SinkKind::Redis, SinkKind::Http]);
        let error = load(&layers("", &[("FANOUT_PIPELINE_SINKS", "s3")])).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "pipeline.sinks: unknown sink \"s3\", expected one of redis, clickhouse, http"
        );
    }

    #[test]
    fn an_overridden_unknown_sink_is_not_refused() {
        let file = "pipeline:\n  sinks: [s3]\n";
        assert!(load(&layers(file, &[])).is_err());
        let env = [("FANOUT_PIPELINE_SINKS", "http")];
        let config = load(&layers(file, &env)).expect("valid");
        assert_eq!(*config.settings.pipeline.sinks, [SinkKind::Http]);
    }
}
