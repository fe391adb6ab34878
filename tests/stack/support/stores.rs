//! Direct access to the stores, because fanout's own reports are no evidence.

use std::collections::BTreeMap;

use fanout::connections::{
    Connection,
    clickhouse::Endpoint,
    postgres::{Client, Postgres},
};
use redis::{FromRedisValue, ToRedisArgs};
use serde_json::Value as Json;

use super::{Fanout, wait_for};

/// The addresses of the stack's servers.
#[derive(Debug, Clone)]
pub struct Stores {
    urls: BTreeMap<String, String>,
}

/// The columns of the view, as text if a number would lose digits.
const COLUMNS: &str = "event_id, toString(content_id) AS content_id, toString(user_id) AS user_id, \
     event_type, toString(event_ts) AS event_ts, duration_ms, \
     toString(engagement_seconds) AS engagement_seconds, \
     toString(engagement_pct) AS engagement_pct, device, raw_payload, content_type, length_seconds";

impl Stores {
    /// Reads the addresses from `fanout env`.
    pub fn of(fanout: &Fanout) -> Self {
        let document = fanout.document(0, &["env", "--show-secrets"]);
        let variables = document["variables"].as_array().expect("variables");
        let urls = variables.iter().filter_map(|variable| {
            let text = |key: &str| variable[key].as_str().map(str::to_owned);
            Some((text("name")?, text("value")?))
        });
        Self {
            urls: urls.collect(),
        }
    }

    /// Returns the addresses without the project's database and board key, for
    /// another project on the same servers.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = ["FANOUT_CLICKHOUSE_DATABASE", "FANOUT_BOARD_KEY"];
        let all = self.urls.iter();
        let all = all.map(|(variable, value)| (variable.as_str(), value.as_str()));
        all.filter(move |(variable, _)| !names.contains(variable))
    }

    pub fn url(&self, variable: &str) -> &str {
        &self.urls[variable]
    }

    async fn source(&self) -> Client {
        let url = self.url("FANOUT_POSTGRES_URL").into();
        let postgres = Postgres::new(Connection::new(url));
        postgres.connect().await.expect("postgres")
    }

    /// Executes statements in the source, in one transaction.
    pub fn postgres(&self, statements: &str) {
        wait_for(async {
            let client = self.source().await;
            let result = client.batch_execute(statements).await;
            result.unwrap_or_else(|error| panic!("{error:?}\n{statements}"));
        });
    }

    /// Returns the first column of the first row, as text.
    pub fn postgres_text(&self, query: &str) -> String {
        wait_for(async {
            let client = self.source().await;
            let row = client.query_one(query, &[]).await;
            let row = row.unwrap_or_else(|error| panic!("{error:?}\n{query}"));
            row.get::<_, String>(0)
        })
    }

    /// Executes one statement in ClickHouse.
    pub fn clickhouse(&self, statement: &str) -> String {
        Self::clickhouse_at(self.url("FANOUT_CLICKHOUSE_URL"), statement)
    }

    /// Executes one statement in another ClickHouse.
    pub fn clickhouse_at(url: &str, statement: &str) -> String {
        wait_for(async {
            let endpoint = Endpoint::at(&url.into()).expect("a url");
            let request = reqwest::Client::new()
                .post(&endpoint.url)
                .basic_auth(&endpoint.user, Some(endpoint.password.reveal()))
                .body(statement.to_owned());
            let response = request.send().await.expect("clickhouse");
            let is_success = response.status().is_success();
            let text = response.text().await.expect("text");
            assert!(is_success, "{text}\n{statement}");
            text
        })
    }

    /// Returns the rows of a database's view that meet a condition, ordered by
    /// id.
    pub fn rows(&self, database: &str, condition: &str) -> Vec<Json> {
        let text = self.clickhouse(&format!(
            "SELECT {COLUMNS} FROM {database}.engagement_enriched WHERE {condition} \
             ORDER BY event_id FORMAT JSONEachRow"
        ));
        let row = |line| serde_json::from_str(line).expect("a row");
        text.lines().map(row).collect()
    }

    /// Returns one row of the project's view.
    pub fn row(&self, id: i64) -> Option<Json> {
        self.rows("analytics", &format!("event_id = {id}")).pop()
    }

    /// Executes one Redis command.
    pub fn redis<T: FromRedisValue>(&self, words: &[impl ToRedisArgs]) -> T {
        let client = redis::Client::open(self.url("FANOUT_REDIS_URL")).expect("a url");
        let mut connection = client.get_connection().expect("redis");
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query(&mut connection).expect("a response")
    }

    /// Returns a board's scores, or an error if its worker does not report it
    /// complete.
    pub fn board(&self, key: &str) -> Result<BTreeMap<String, i64>, String> {
        let meta = format!("{{{key}}}:meta");
        let complete: Option<String> = self.redis(&["HGET", &meta, "complete"]);
        let scores: BTreeMap<String, i64> = self.redis(&["ZRANGE", key, "0", "-1", "WITHSCORES"]);
        match complete.as_deref() {
            Some("1") => Ok(scores),
            _ => Err(format!(
                "the board is not complete: {complete:?} {scores:?}"
            )),
        }
    }

    /// Returns the calls that the external system has accepted, oldest first.
    pub fn accepted(&self) -> Vec<Json> {
        accepted_by(self.url("FANOUT_EXTERNAL_URL"))
    }
}

/// Replaces the failures that the stub at `url` injects.
pub fn set_faults(url: &str, query: &str) {
    let url = format!("{url}/faults?{query}");
    let response = wait_for(reqwest::Client::new().put(url).send());
    assert_eq!(response.expect("the stub").status(), 200, "{query}");
}

/// Returns the calls that the stub at `url` has accepted, oldest first.
pub fn accepted_by(url: &str) -> Vec<Json> {
    let mut accepted = Vec::new();
    let mut after = Json::from(0);
    while !after.is_null() {
        let page: Json = wait_for(async {
            let url = format!("{url}/events?limit=1000&after={after}");
            let response = reqwest::get(url).await.expect("the stub");
            response.json().await.expect("a page")
        });
        accepted.extend(page["events"].as_array().expect("events").iter().cloned());
        after = page["next"].clone();
    }
    accepted
}
