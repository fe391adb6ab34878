//! The load: a writer that inserts, updates, moves, deletes and reinserts
//! events and contents in the source, and tolerates failures of Postgres.

use std::{
    collections::{BTreeMap, HashSet},
    thread,
    time::Duration,
};

use fanout::connections::{
    Connection,
    postgres::{Client, Postgres, PostgresError},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{stage::Stage, support::wait_for};

/// Interval between two transactions.
const PAUSE: Duration = Duration::from_millis(35);
/// Timeout of a request to Postgres, after which the writer reconnects.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The first id, far from all other ids.
const FIRST_ID: i64 = 1_000_000;
const CONTENTS: usize = 24;
/// Maximum number of missing contents.
const MAX_MISSING: usize = 6;

/// The number of transactions by kind, and of transactions with an unknown
/// outcome.
#[derive(Debug, Default)]
pub struct Written {
    pub kinds: BTreeMap<&'static str, u64>,
    pub ambiguous: u64,
}

/// One transaction and its effect on the ids.
#[derive(Debug, Default)]
struct Step {
    kind: &'static str,
    sql: String,
    inserted: Vec<i64>,
    removed: Vec<i64>,
    inserted_content: Option<Uuid>,
    removed_content: Option<Uuid>,
}

struct Writer {
    rng: ChaCha8Rng,
    next_id: i64,
    live: Vec<i64>,
    deleted: Vec<i64>,
    contents: Vec<Uuid>,
    /// Contents that events refer to but that do not exist.
    missing: Vec<Uuid>,
}

/// Writes until the storm ends.
pub fn write(stage: &Stage, seed: u64) -> Written {
    let mut writer = Writer {
        rng: ChaCha8Rng::seed_from_u64(seed ^ 0x10ad),
        next_id: FIRST_ID,
        live: Vec::new(),
        deleted: Vec::new(),
        contents: Vec::new(),
        missing: Vec::new(),
    };
    let mut written = Written::default();
    let mut client = None;
    while !stage.is_over() {
        if client.is_none() {
            client = writer.connect(stage);
            continue;
        }
        let step = writer.step();
        let connected = client.as_ref().expect("the client was just checked");
        if execute(connected, &step.sql) {
            *written.kinds.entry(step.kind).or_default() += 1;
            writer.record(step);
        } else {
            written.ambiguous += 1;
            client = None;
        }
        thread::sleep(PAUSE);
    }
    if let Some(client) = client {
        writer.insert_missing_contents(&client);
    }
    written
}

/// Executes a transaction. Returns true if it is known to be committed. An SQL
/// error is a mistake in this test.
fn execute(client: &Client, sql: &str) -> bool {
    match wait_for(async { timeout(TIMEOUT, client.batch_execute(sql)).await }) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let code = error.code().map_or("08", |code| code.code());
            // Error classes: invalid values, violated constraints, syntax.
            let is_sql_error = ["22", "23", "42"]
                .iter()
                .any(|class| code.starts_with(class));
            assert!(!is_sql_error, "{error:?}\n{sql}");
            false
        }
        Err(_) => false,
    }
}

impl Writer {
    /// Connects and reads the actual state, because the last transaction may or
    /// may not have been committed.
    fn connect(&mut self, stage: &Stage) -> Option<Client> {
        let url = stage.stack.stores.url("FANOUT_POSTGRES_URL");
        let read = async {
            let client = Postgres::new(Connection::new(url.into())).connect().await?;
            let ids = "SELECT id FROM engagement_events WHERE id BETWEEN 1000000 AND 999999999";
            let ids = client.query(ids, &[]).await?;
            let contents = client.query("SELECT id FROM content", &[]).await?;
            Ok::<_, PostgresError>((client, ids, contents))
        };
        let outcome = wait_for(async { timeout(TIMEOUT, read).await });
        let Ok(Ok((client, ids, contents))) = outcome else {
            thread::sleep(PAUSE);
            return None;
        };
        let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
        let newest = ids.iter().max().copied().unwrap_or(FIRST_ID);
        self.next_id = self.next_id.max(newest + 1);
        let existing: HashSet<i64> = ids.iter().copied().collect();
        self.deleted.extend(&self.live);
        self.deleted.retain(|id| !existing.contains(id));
        self.live = ids;
        let contents: Vec<Uuid> = contents.iter().map(|row| row.get(0)).collect();
        self.missing.extend(&self.contents);
        self.missing.retain(|id| !contents.contains(id));
        self.contents = contents;
        Some(client)
    }

    fn record(&mut self, step: Step) {
        self.live.retain(|id| !step.removed.contains(id));
        self.deleted.retain(|id| !step.inserted.contains(id));
        self.live.extend(step.inserted);
        self.deleted.extend(step.removed);
        let removed = step.removed_content;
        self.contents.retain(|id| Some(*id) != removed);
        self.missing.extend(removed);
        self.missing.retain(|id| Some(*id) != step.inserted_content);
        self.contents.extend(step.inserted_content);
    }

    fn step(&mut self) -> Step {
        if self.contents.len() < 4 {
            return self.insert_content();
        }
        if self.live.len() < 20 {
            return self.insert(1);
        }
        match self.rng.random_range(0..100) {
            0..30 => self.insert(1),
            30..33 => self.insert(25),
            33..45 => self.update("update", "duration_ms", Self::duration),
            45..50 => self.update("update", "device", Self::device),
            50..60 => self.update("move", "content_id", Self::random_content_id),
            60..68 => self.update("update", "event_ts", Self::time),
            68..76 => self.delete(),
            76..81 => self.reinsert(),
            81..83 => self.delete_and_insert(),
            83..85 => self.update("poison", "event_ts", Self::invalid_time),
            85..88 => self.insert_before_content(),
            88..92 => self.insert_missing_content(),
            92..98 => self.change_content(),
            98..99 => self.insert_content(),
            _ => self.delete_content(),
        }
    }

    fn insert(&mut self, count: i64) -> Step {
        let ids: Vec<i64> = (self.next_id..self.next_id + count).collect();
        self.next_id += count;
        Step {
            kind: "insert",
            sql: ids.iter().map(|id| self.row(*id)).collect(),
            inserted: ids,
            ..Step::default()
        }
    }

    /// Returns the insert of an event.
    fn row(&mut self, id: i64) -> String {
        let content = self.random_content_id();
        self.row_with_content(id, &content)
    }

    fn row_with_content(&mut self, id: i64, content: &str) -> String {
        let (time, duration, device) = (self.time(), self.duration(), self.device());
        let user = Uuid::from_u128(self.rng.random());
        let word = ["play", "pause", "finish", "click"][self.rng.random_range(0..4)];
        let payload =
            ["NULL", "'{\"a\": [1, null]}'", "'\"text\"'", "'1.50'"][self.rng.random_range(0..4)];
        format!(
            "INSERT INTO engagement_events VALUES
             ({id}, {content}, '{user}', '{word}', {time}, {duration}, {device}, {payload});"
        )
    }

    fn update(&mut self, kind: &'static str, column: &str, value: fn(&mut Self) -> String) -> Step {
        let (id, value) = (self.random_event(), value(self));
        Step {
            kind,
            sql: format!("UPDATE engagement_events SET {column} = {value} WHERE id = {id}"),
            ..Step::default()
        }
    }

    fn delete(&mut self) -> Step {
        let id = self.random_event();
        Step {
            kind: "delete",
            sql: format!("DELETE FROM engagement_events WHERE id = {id}"),
            removed: vec![id],
            ..Step::default()
        }
    }

    fn reinsert(&mut self) -> Step {
        if self.deleted.is_empty() {
            return self.insert(1);
        }
        let index = self.rng.random_range(0..self.deleted.len());
        let id = self.deleted[index];
        Step {
            kind: "insert again",
            sql: self.row(id),
            inserted: vec![id],
            ..Step::default()
        }
    }

    /// Deletes, reinserts and updates an event in one transaction.
    fn delete_and_insert(&mut self) -> Step {
        let id = self.random_event();
        let (row, duration) = (self.row(id), self.duration());
        Step {
            kind: "delete and insert",
            sql: format!(
                "DELETE FROM engagement_events WHERE id = {id}; {row}
                 UPDATE engagement_events SET duration_ms = {duration} WHERE id = {id}"
            ),
            ..Step::default()
        }
    }

    /// Inserts an event of a content that does not exist yet.
    fn insert_before_content(&mut self) -> Step {
        if self.missing.len() >= MAX_MISSING {
            return self.insert_missing_content();
        }
        let content = Uuid::from_u128(self.rng.random());
        let id = self.next_id;
        self.next_id += 1;
        self.missing.push(content);
        let row = self.row_with_content(id, &format!("'{content}'"));
        Step {
            kind: "insert before its content",
            sql: row,
            inserted: vec![id],
            ..Step::default()
        }
    }

    /// Inserts a content that events already refer to.
    fn insert_missing_content(&mut self) -> Step {
        match self.missing.first().copied() {
            Some(id) => self.content_row("content after its events", id),
            None => self.insert_content(),
        }
    }

    fn insert_content(&mut self) -> Step {
        if self.contents.len() >= CONTENTS {
            return self.change_content();
        }
        let id = Uuid::from_u128(self.rng.random());
        self.content_row("content", id)
    }

    fn content_row(&mut self, kind: &'static str, id: Uuid) -> Step {
        let (word, length) = (self.content_type(), self.length());
        Step {
            kind,
            sql: format!(
                "INSERT INTO content VALUES ('{id}', '{id}', 'a title', {word}, {length}, now())"
            ),
            inserted_content: Some(id),
            ..Step::default()
        }
    }

    fn change_content(&mut self) -> Step {
        let id = self.random_content();
        let change = match self.rng.random_range(0..3) {
            0 => format!("content_type = {}", self.content_type()),
            1 => format!("length_seconds = {}", self.length()),
            _ => format!("title = 'title {}'", self.next_id),
        };
        Step {
            kind: "content changed",
            sql: format!("UPDATE content SET {change} WHERE id = '{id}'"),
            ..Step::default()
        }
    }

    fn delete_content(&mut self) -> Step {
        let id = self.random_content();
        Step {
            kind: "content deleted",
            sql: format!("DELETE FROM content WHERE id = '{id}'"),
            removed_content: Some(id),
            ..Step::default()
        }
    }

    /// Inserts all missing contents before the load ends.
    fn insert_missing_contents(&mut self, client: &Client) {
        while let Some(id) = self.missing.pop() {
            let step = self.content_row("content after its events", id);
            execute(client, &step.sql);
        }
    }

    fn random_event(&mut self) -> i64 {
        self.live[self.rng.random_range(0..self.live.len())]
    }

    fn random_content(&mut self) -> Uuid {
        self.contents[self.rng.random_range(0..self.contents.len())]
    }

    fn random_content_id(&mut self) -> String {
        if self.rng.random_bool(0.04) {
            return "NULL".to_owned();
        }
        format!("'{}'", self.random_content())
    }

    /// Returns an event time in the window, before it, soon to enter it, or too
    /// far ahead to count.
    fn time(&mut self) -> String {
        let ahead_ms = match self.rng.random_range(0..20) {
            0..14 => -self.rng.random_range(0..20_000),
            14..16 => -self.rng.random_range(25_000..60_000),
            16..19 => self.rng.random_range(0..20_000),
            _ => self.rng.random_range(290_000..400_000),
        };
        format!("clock_timestamp() + interval '{ahead_ms} milliseconds'")
    }

    fn invalid_time(&mut self) -> String {
        let times = ["'infinity'", "'-infinity'", "'20000-01-01 00:00:00Z'"];
        times[self.rng.random_range(0..times.len())].to_owned()
    }

    fn duration(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => "NULL".to_owned(),
            1 => "-250".to_owned(),
            _ => self.rng.random_range(0..600_000).to_string(),
        }
    }

    fn device(&mut self) -> String {
        ["NULL", "'ios'", "'web'", "E'\\u202Edeci\\u2764\\x1b[31m'"][self.rng.random_range(0..4)]
            .to_owned()
    }

    fn content_type(&mut self) -> String {
        ["NULL", "'podcast'", "'newsletter'", "'video'"][self.rng.random_range(0..4)].to_owned()
    }

    fn length(&mut self) -> String {
        match self.rng.random_range(0..6) {
            0 => "NULL".to_owned(),
            1 => "0".to_owned(),
            _ => self.rng.random_range(1..5_000).to_string(),
        }
    }
}
