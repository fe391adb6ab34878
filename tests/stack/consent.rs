//! External servers: changes to them are listed first and made only after the
//! operator confirms. Sources with an unsupported schema are refused before
//! anything is created.

use std::{collections::BTreeSet, fs};

use fanout::{
    config::Settings,
    connections::{Connection, Connections, postgres::Postgres},
};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Fanout, Stack, check_equal, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "external_servers_are_changed_only_after_confirmation",
        without_consent,
    ),
    (
        "a_source_with_an_unsupported_schema_is_refused_with_the_reason",
        unsupported_schemas,
    ),
];

/// Returns a caller for a project whose servers are all external, namely the
/// stack's.
fn guest(stack: &Stack) -> Fanout {
    let path = stack.fanout.home().join("guest.yaml");
    let services = [
        "postgres",
        "kafka",
        "connect",
        "clickhouse",
        "redis",
        "stub",
    ];
    let external = services.map(|name| format!("  {name}: {{runtime: external}}\n"));
    fs::write(&path, format!("services:\n{}", external.concat())).expect("write the configuration");
    let path = path.to_str().expect("a path in UTF-8");
    let mut guest = stack
        .fanout
        .with("FANOUT_PROJECT", "guest")
        .with("FANOUT_CONFIG", path);
    for (name, url) in stack.stores.servers() {
        if name != "FANOUT_HTTP_URL" {
            guest = guest.with(name, url);
        }
    }
    guest
}

fn without_consent(stack: &Stack) {
    let guest = guest(stack);
    let plan = guest.document(0, &["up", "--ports", "auto", "--dry-run"]);
    let alterations = plan["alterations"].as_array().expect("a list");
    let needing_consent = alterations
        .iter()
        .filter(|alteration| alteration["needs_consent"] == true);
    let services: BTreeSet<&str> = needing_consent
        .filter_map(|alteration| alteration["service"].as_str())
        .collect();
    let everywhere = ["clickhouse", "connect", "kafka", "postgres", "redis"];
    assert_eq!(services, everywhere.into(), "{plan:#}");
    let statements: Vec<&str> = alterations
        .iter()
        .filter_map(|alteration| alteration["what"].as_str())
        .collect();
    // The tables exist already.
    assert!(
        !statements
            .iter()
            .any(|statement| statement.contains("TABLE IF NOT EXISTS public")),
        "{statements:?}"
    );

    let refused = guest.run(&["up", "--ports", "auto"]).ends_with(6);
    let refused = refused.says("hint: fanout --project guest up --ports auto --yes");
    for statement in &statements {
        for line in statement.lines() {
            assert!(
                refused.stderr.contains(line),
                "{line} is not in {}",
                refused.evidence()
            );
        }
    }
    assert_eq!(traces(stack, &statements), Vec::<String>::new());
    assert!(!stack.fanout.home().join("guest/state.json").exists());

    guest.run(&["up", "--ports", "auto", "--yes"]).ends_with(0);
    let created = traces(stack, &statements);
    for server in ["postgres", "clickhouse", "connect", "kafka"] {
        let is_changed = created.iter().any(|trace| trace.starts_with(server));
        assert!(is_changed, "nothing in {server}: {created:?}");
    }
    // No further change is needed, so no confirmation is required.
    guest.run(&["up"]).ends_with(0).says("nothing to do");
    guest.run(&["reset", "--yes"]).ends_with(0);
    // Kafka lists a deleted topic for a moment.
    eventually("nothing is left of the guest", || {
        check_equal(&Vec::<String>::new(), traces(stack, &statements))
    });
}

/// Returns the objects of the guest project on the stack's servers: topics and
/// Redis keys that `up` listed, and other objects with `guest` in their names.
fn traces(stack: &Stack, listed: &[&str]) -> Vec<String> {
    let in_postgres = stack.stores.postgres_text(
        "SELECT coalesce(string_agg(name, ' '), '') FROM (
            SELECT pubname::text FROM pg_publication UNION ALL
            SELECT slot_name FROM pg_replication_slots) AS of (name)
         WHERE name LIKE '%guest%'",
    );
    let databases = "SELECT name FROM system.tables WHERE database LIKE '%guest%' LIMIT 1";
    let in_clickhouse = stack.stores.clickhouse(databases);
    let connectors = wait_for(async {
        let url = format!("{}/connectors", stack.stores.url("FANOUT_CONNECT_URL"));
        let response = reqwest::get(url).await.expect("connect");
        response.json::<Vec<String>>().await.expect("a list")
    });
    let in_connect = connectors.into_iter().filter(|name| name.contains("guest"));
    let mut settings = Settings::default();
    let brokers = stack.stores.url("FANOUT_KAFKA_BROKERS");
    brokers.clone_into(&mut settings.kafka.brokers);
    let kafka = Connections::of(&settings).kafka;
    let (topics, _) = kafka.list_topics_and_groups().expect("kafka");
    let is_listed = |topic: &String| listed.contains(&format!("create topic {topic}").as_str());
    let in_kafka = topics.into_iter().filter(is_listed);
    let keys = listed
        .iter()
        .filter_map(|statement| statement.strip_prefix("write the keys "));
    let keys = keys.flat_map(|keys| keys.split(", "));
    let in_redis = keys.filter(|key| stack.stores.redis::<bool>(&["EXISTS", key]));
    let describe = |server: &str, name: &str| format!("{server}: {name}");
    let names = in_postgres.split_whitespace();
    let tables = in_clickhouse.split_whitespace();
    names
        .map(|name| describe("postgres", name))
        .chain(tables.map(|name| describe("clickhouse", name)))
        .chain(in_connect.map(|name| describe("connect", &name)))
        .chain(in_kafka.map(|name| describe("kafka", &name)))
        .chain(in_redis.map(|name| describe("redis", name)))
        .collect()
}

/// A separate, emptied Postgres, and a project for which it is external.
struct Bare<'a> {
    stack: &'a Stack,
    url: String,
    guest: Fanout,
}

impl<'a> Bare<'a> {
    fn start(stack: &'a Stack) -> Self {
        let host = stack.fanout.with("FANOUT_PROJECT", "host");
        let up = ["--runtime", "native", "up", "postgres", "--ports", "auto"];
        host.run(&up).ends_with(0);
        let document = host.document(0, &["env", "--show-secrets"]);
        let variables = document["variables"].as_array().expect("variables");
        let is_url = |variable: &&Json| variable["name"] == "FANOUT_POSTGRES_URL";
        let url = variables.iter().find(is_url).expect("a Postgres url")["value"].clone();
        let url = url.as_str().expect("a text").to_owned();
        let path = stack.fanout.home().join("bare.yaml");
        fs::write(&path, "services: {postgres: {runtime: external}}\n")
            .expect("write the configuration");
        let guest = stack
            .fanout
            .with("FANOUT_PROJECT", "bare")
            .with("FANOUT_CONFIG", path.to_str().expect("a path in UTF-8"))
            .with("FANOUT_POSTGRES_URL", &url);
        let bare = Self { stack, url, guest };
        // Row-level security does not apply to superusers.
        bare.execute(
            "DO $$ BEGIN
                IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                    EXECUTE format('ALTER ROLE %I NOSUPERUSER', current_user);
                END IF;
            END $$",
        );
        bare.empty();
        bare
    }

    fn execute(&self, statements: &str) {
        wait_for(async {
            let client = Postgres::new(Connection::new(self.url.as_str().into()))
                .connect()
                .await
                .expect("postgres");
            let result = client.batch_execute(statements).await;
            result.unwrap_or_else(|error| panic!("{error:?}\n{statements}"));
        });
    }

    fn empty(&self) {
        self.execute(
            "DO $$ DECLARE statement text; BEGIN
                FOR statement IN
                    SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication
                    UNION ALL
                    SELECT format('DROP %s IF EXISTS public.%I CASCADE',
                        CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                            ELSE 'TABLE' END, relname)
                    FROM pg_class WHERE relnamespace = 'public'::regnamespace
                        AND relkind IN ('r', 'p', 'v', 'm')
                    UNION ALL
                    SELECT format('DROP TYPE IF EXISTS %I CASCADE', typname) FROM pg_type
                    WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e')
                LOOP EXECUTE statement; END LOOP;
            END $$",
        );
    }

    fn relations(&self) -> i64 {
        wait_for(async {
            let client = Postgres::new(Connection::new(self.url.as_str().into()))
                .connect()
                .await
                .expect("postgres");
            let count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
            let row = client.query_one(count, &[]).await.expect("a count");
            row.get(0)
        })
    }

    /// Asserts that `up` refuses this schema, which is created after a
    /// successful `up`.
    fn assert_refused(&self, schema: &str, reason: &str) {
        self.guest.run(&["up", "postgres", "--yes"]).ends_with(0);
        self.execute(schema);
        let before = self.relations();
        let refused = self.guest.run(&["up", "postgres", "--yes"]);
        assert_eq!(refused.code, Some(6), "{schema}\n{}", refused.evidence());
        let refused = refused.says(reason);
        assert!(
            refused.stderr.contains("\nhint: "),
            "{}",
            refused.evidence()
        );
        assert_eq!(self.relations(), before, "{}", refused.evidence());
        self.empty();
    }

    fn reset(self) {
        for project in ["bare", "host"] {
            let fanout = self.stack.fanout.with("FANOUT_PROJECT", project);
            let fanout = fanout.with("FANOUT_POSTGRES_URL", &self.url);
            let path = self.stack.fanout.home().join("bare.yaml");
            let fanout = match project {
                "bare" => fanout.with("FANOUT_CONFIG", path.to_str().expect("a path in UTF-8")),
                _ => fanout,
            };
            fanout.run(&["reset", "--yes"]).ends_with(0);
        }
    }
}

fn unsupported_schemas(stack: &Stack) {
    let bare = Bare::start(stack);
    let refused = bare.guest.run(&["up", "postgres"]).ends_with(6);
    let refused = refused.says("CREATE TABLE IF NOT EXISTS public.engagement_events (");
    refused.says("ALTER TABLE public.content REPLICA IDENTITY FULL");
    assert_eq!(bare.relations(), 0);
    let events = "public.engagement_events";
    for (schema, reason) in SCHEMAS {
        bare.assert_refused(&schema.replace("{events}", events), reason);
    }
    bare.execute("CREATE VIEW public.content AS SELECT 1 AS id");
    let doctor = bare.guest.run(&["doctor"]).ends_with(5);
    doctor.says("public.content is a view, not an ordinary table");
    bare.reset();
}

/// Statements that create an unsupported schema, and the reported reason.
const SCHEMAS: [(&str, &str); 15] = [
    (
        "ALTER TABLE {events} RENAME TO plain;
         CREATE TABLE {events} (LIKE plain, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "engagement_events is a partitioned table",
    ),
    (
        "ALTER TABLE {events} RENAME TO plain; CREATE VIEW {events} AS SELECT * FROM plain",
        "engagement_events is a view",
    ),
    (
        "ALTER TABLE {events} RENAME TO plain;
         CREATE MATERIALIZED VIEW {events} AS SELECT * FROM plain",
        "engagement_events is a materialized view",
    ),
    (
        "ALTER PUBLICATION dbz_pub_bare DROP TABLE {events};
         ALTER TABLE {events} SET UNLOGGED",
        "engagement_events is unlogged",
    ),
    (
        "CREATE TABLE parent (device text); ALTER TABLE {events} INHERIT parent",
        "engagement_events inherits from parent",
    ),
    (
        "CREATE TABLE child () INHERITS ({events})",
        "child inherits from public.engagement_events",
    ),
    (
        "CREATE TABLE whole (LIKE {events} INCLUDING ALL) PARTITION BY RANGE (id);
         ALTER TABLE whole ATTACH PARTITION {events} DEFAULT",
        "engagement_events is a partition of whole",
    ),
    (
        "ALTER TABLE {events} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "row-level security of public.engagement_events",
    ),
    (
        "ALTER TABLE {events} DROP CONSTRAINT engagement_events_pkey",
        "engagement_events has no primary key",
    ),
    (
        "ALTER TABLE {events} DROP CONSTRAINT engagement_events_pkey,
         ADD PRIMARY KEY (id, event_ts)",
        "the primary key of public.engagement_events is (id, event_ts), not (id)",
    ),
    (
        "ALTER TABLE {events} DROP CONSTRAINT engagement_events_pkey,
         ADD PRIMARY KEY (id) DEFERRABLE",
        "the primary key of public.engagement_events is deferrable",
    ),
    (
        "ALTER TABLE {events} DROP COLUMN duration_ms,
         ADD COLUMN duration_ms int GENERATED ALWAYS AS (1) STORED",
        "column duration_ms of public.engagement_events is generated",
    ),
    (
        "ALTER TABLE {events} RENAME COLUMN device TO gadget",
        "public.engagement_events has no column device",
    ),
    (
        "ALTER TABLE {events} ALTER COLUMN event_ts TYPE timestamp",
        "column event_ts of public.engagement_events has type timestamp without time zone",
    ),
    (
        "CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN moody AS mood",
        "domain moody is over an enum",
    ),
];
