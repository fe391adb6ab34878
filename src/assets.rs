//! The embedded files of `stack/`, `sql/` and `connect/`, so that the binary runs from any
//! folder. No other module of the library includes files.

/// One embedded file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Path in the repository: `sql/postgres/content.sql`.
    pub path: &'static str,
    pub text: &'static str,
}

macro_rules! embed {
    ($($path:literal),* $(,)?) => {
        &[$(Asset { path: $path, text: include_str!(concat!("../", $path)) }),*]
    };
}

/// All embedded files, ordered by path.
pub const ALL: &[Asset] = embed![
    "connect/pg-engagement-cdc.json",
    "sql/clickhouse/01_database.sql",
    "sql/clickhouse/02_engagement_enriched_storage.sql",
    "sql/clickhouse/03_engagement_enriched.sql",
    "sql/clickhouse/04_content.sql",
    "sql/clickhouse/05_fanout_topics.sql",
    "sql/clickhouse/06_fanout_topics_history.sql",
    "sql/clickhouse/07_content_columns.sql",
    "sql/postgres/content.sql",
    "sql/postgres/debezium_heartbeat.sql",
    "sql/postgres/debezium_signal.sql",
    "sql/postgres/engagement_events.sql",
    "sql/role/restrict.sql",
    "stack/clickhouse.yaml",
    "stack/connect.yaml",
    "stack/console.yaml",
    "stack/docker/clickhouse.yaml",
    "stack/docker/console.yaml",
    "stack/docker/postgres-role.sql",
    "stack/docker/redis.conf",
    "stack/kafka.yaml",
    "stack/native/chdb_front.py",
    "stack/native/chdb_guard.py",
    "stack/native/clickhouse-server.yaml",
    "stack/native/connect.properties",
    "stack/native/debezium/checksums.sha256",
    "stack/native/debezium/pom.xml",
    "stack/native/installs.yaml",
    "stack/native/kafka/checksums.sha256",
    "stack/native/kafka/pom.xml",
    "stack/native/log4j2.xml",
    "stack/native/postgres.password",
    "stack/native/redis.conf",
    "stack/native/requirements.txt",
    "stack/native/secrets.properties",
    "stack/native/server.properties",
    "stack/pipeline.yaml",
    "stack/postgres.yaml",
    "stack/redis.yaml",
    "stack/stub.yaml",
];

/// Returns the text of the file at `path`.
#[must_use]
pub fn text(path: &str) -> Option<&'static str> {
    let index = ALL.binary_search_by(|asset| asset.path.cmp(path)).ok()?;
    Some(ALL[index].text)
}

/// Returns the files below `folder` (which ends with `/`), ordered by path.
pub fn under(folder: &str) -> impl Iterator<Item = &'static Asset> {
    ALL.iter()
        .filter(move |asset| asset.path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn files_below(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let is_script = path.extension().is_some_and(|extension| extension == "sh");
            let is_image = path.starts_with("stack/image");
            if path.is_dir() {
                files_below(&path, found);
            } else if !is_script && !is_image {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }

    /// Excludes scripts and the image, which only a build of fanout needs.
    #[test]
    fn every_file_of_the_folders_is_embedded_and_in_order() {
        let mut found = BTreeSet::new();
        for folder in ["connect", "sql", "stack"] {
            files_below(Path::new(folder), &mut found);
        }
        let embedded: Vec<&str> = ALL.iter().map(|asset| asset.path).collect();
        assert_eq!(
            embedded,
            found.iter().map(String::as_str).collect::<Vec<_>>()
        );
    }
}
