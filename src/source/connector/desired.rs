//! The connector's desired configuration: the template in `connect/`, filled from the settings.
//! Also compares it with the current configuration.

use std::collections::{BTreeMap, BTreeSet};

use super::error::ConnectorError;
use crate::{
    assets,
    config::Settings,
    connections::postgres,
    secret::is_secret,
    source::topics,
    text::template::{self, Values},
};

/// A connector's configuration. As in Connect, all values are texts.
pub type Properties = BTreeMap<String, String>;

/// The property that contains the placeholder for unavailable values.
pub const PLACEHOLDER: &str = "unavailable.value.placeholder";

/// Path of the template among the embedded files.
const TEMPLATE: &str = "connect/pg-engagement-cdc.json";

/// The override that contains the path of Connect's secrets file.
pub const SECRETS_FILE: &str = "connector.secrets_file";

/// Returns the values of the template's placeholders. They contain the password in plain text.
/// A stack with a secrets file for Connect overrides `postgres.password` with a `${file:…}`
/// reference, and sets [`SECRETS_FILE`] to the file's path.
///
/// # Errors
/// If the Postgres URL is invalid.
pub fn placeholders(settings: &Settings) -> Result<Values, ConnectorError> {
    let address = postgres::address(&settings.postgres.url).map_err(ConnectorError::PostgresUrl)?;
    let (host, port) = match &settings.postgres.connect_address {
        Some(text) => match text.rsplit_once(':') {
            Some((host, port)) => (host.to_owned(), port.to_owned()),
            None => (text.clone(), address.port.to_string()),
        },
        None => (address.host, address.port.to_string()),
    };
    let values = [
        ("postgres.host", host),
        ("postgres.port", port),
        ("postgres.user", address.user),
        ("postgres.password", address.password.reveal().to_owned()),
        ("postgres.database", address.database),
        ("topic_prefix", settings.kafka.topic_prefix.clone()),
        ("slot", settings.connector.slot.clone()),
        ("publication", settings.connector.publication.clone()),
        ("largest_record", topics::LARGEST_RECORD.to_string()),
    ];
    Ok(values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// Returns the complete configuration: the filled template, the properties for topic creation,
/// the operator's properties, and the connector's name. It contains Debezium's placeholder for
/// unavailable values; the caller replaces it with the project's placeholder.
///
/// # Errors
/// If the settings cannot fill the template, or set a property that only fanout may set.
pub fn properties(settings: &Settings, overrides: &Values) -> Result<Properties, ConnectorError> {
    if settings.connector.properties.contains_key(PLACEHOLDER) {
        return Err(ConnectorError::OwnPlaceholder);
    }
    let mut values = placeholders(settings)?;
    values.extend(overrides.clone());
    let text = assets::text(TEMPLATE).unwrap_or_default();
    let template: Properties = serde_json::from_str(text)?;
    let mut properties = Properties::new();
    for (name, value) in template {
        // Each value is filled separately, so that a quote in a password needs no escaping.
        properties.insert(name, template::render(&value, &values)?.text);
    }
    properties.extend(topics::creation(settings));
    properties.extend(settings.connector.properties.clone());
    if let Some(file) = overrides.get(SECRETS_FILE) {
        properties.extend(settings.connector.secret_references(file));
    }
    properties.insert("name".to_owned(), settings.connector.name.clone());
    Ok(properties)
}

/// Keeps the current reference of each secret that Connect reads from a file. Only the operator
/// who started Connect knows the file, and the REST API would show the secret in plain text.
pub fn keep_references(desired: &mut Properties, current: &Properties, overrides: &Values) {
    if overrides.contains_key(SECRETS_FILE) {
        return;
    }
    for (name, value) in desired {
        let reference = current.get(name).filter(|value| value.starts_with("${"));
        if let Some(reference) = reference
            && is_secret(name)
        {
            value.clone_from(reference);
        }
    }
}

/// Returns the names of the properties that differ.
#[must_use]
pub fn changed(current: &Properties, desired: &Properties) -> Vec<String> {
    let names: BTreeSet<&String> = current.keys().chain(desired.keys()).collect();
    names
        .into_iter()
        .filter(|name| current.get(*name) != desired.get(*name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties_of(pairs: &[(&str, &str)]) -> Properties {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_template_is_filled_from_the_settings() {
        let mut settings = Settings::default();
        settings.postgres.url = "postgres://me:p%22w@db:5499/shop".into();
        settings
            .connector
            .properties
            .insert("poll.interval.ms".to_owned(), "77".to_owned());
        let filled = properties(&settings, &Values::new()).expect("a filled template");
        for (name, value) in [
            ("name", "pg-engagement-cdc"),
            ("database.hostname", "db"),
            ("database.port", "5499"),
            ("database.user", "me"),
            ("database.password", "p\"w"),
            ("database.dbname", "shop"),
            ("slot.name", "dbz_slot"),
            ("poll.interval.ms", "77"),
            ("topic.creation.content.include", "cdc\\.public\\.content"),
            ("producer.override.max.request.size", "67108864"),
        ] {
            assert_eq!(filled.get(name).map(String::as_str), Some(value), "{name}");
        }
        let text = format!("{filled:?}");
        assert!(!text.contains("{{"), "{text}");
    }

    #[test]
    fn a_placeholder_set_by_the_operator_is_refused() {
        let mut settings = Settings::default();
        let property = ("unavailable.value.placeholder".to_owned(), "n/a".to_owned());
        settings.connector.properties.extend([property]);
        let error = properties(&settings, &Values::new()).expect_err("refused");
        assert!(matches!(error, ConnectorError::OwnPlaceholder), "{error}");
    }

    #[test]
    fn connect_may_use_another_address_for_the_database() {
        let mut settings = Settings::default();
        settings.postgres.connect_address = Some("postgres:5432".to_owned());
        let filled = properties(&settings, &Values::new()).expect("a filled template");
        assert_eq!(filled["database.hostname"], "postgres");
    }

    #[test]
    fn only_differing_properties_are_listed() {
        let current = properties_of(&[("a", "1"), ("b", "2"), ("gone", "x")]);
        let desired = properties_of(&[("a", "1"), ("b", "3"), ("new", "y")]);
        assert_eq!(changed(&current, &desired), ["b", "gone", "new"]);
        assert!(changed(&current, &current).is_empty());
    }

    #[test]
    fn a_password_reference_is_kept() {
        let reference = "${file:/secrets:postgres_password}";
        let current = properties_of(&[("database.password", reference), ("x", "${y}")]);
        let mut desired = properties_of(&[("database.password", "app"), ("x", "1")]);
        keep_references(&mut desired, &current, &Values::new());
        assert_eq!(desired["database.password"], reference);
        assert_eq!(desired["x"], "1");

        let overrides = properties_of(&[(SECRETS_FILE, "/other")]);
        let mut desired = properties_of(&[("database.password", "other")]);
        keep_references(&mut desired, &current, &overrides);
        assert_eq!(desired["database.password"], "other");
    }
}
