//! Servers that are not fanout's own: what would be changed on them is listed
//! first, and done only when the operator agrees; sources of a shape that
//! cannot be followed are refused before anything is made.

use std::{collections::BTreeSet, fs};

use fanout::{
    clients::{Connection, Connections, postgres::Postgres},
    config::Settings,
};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Fanout, Stack, eventually, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "nothing_is_altered_on_servers_of_others_without_consent",
        without_consent,
    ),
    (
        "a_source_of_an_unsupported_shape_is_refused_by_name",
        unsupported_shapes,
    ),
];

/// A project whose servers are all somebody else's: here, the stack's.
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
    fs::write(&path, format!("services:\n{}", external.concat())).expect("a file");
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
    let asks = alterations
        .iter()
        .filter(|one| one["needs_consent"] == true);
    let asks: BTreeSet<&str> = asks.filter_map(|one| one["service"].as_str()).collect();
    let everywhere = ["clickhouse", "connect", "kafka", "postgres", "redis"];
    assert_eq!(asks, everywhere.into(), "{plan:#}");
    let what: Vec<&str> = alterations
        .iter()
        .filter_map(|one| one["what"].as_str())
        .collect();
    // The tables are there already.
    assert!(
        !what
            .iter()
            .any(|one| one.contains("TABLE IF NOT EXISTS public")),
        "{what:?}"
    );

    let refused = guest.run(&["up", "--ports", "auto"]).ends_with(6);
    let refused = refused.says("hint: fanout --project guest up --ports auto --yes");
    for one in &what {
        for line in one.lines() {
            assert!(
                refused.stderr.contains(line),
                "{line} is not in {}",
                refused.evidence()
            );
        }
    }
    assert_eq!(traces(stack, &what), Vec::<String>::new());
    assert!(!stack.fanout.home().join("guest/state.json").exists());

    guest.run(&["up", "--ports", "auto", "--yes"]).ends_with(0);
    let made = traces(stack, &what);
    for server in ["postgres", "clickhouse", "connect", "kafka"] {
        let is_there = made.iter().any(|trace| trace.starts_with(server));
        assert!(is_there, "nothing in {server}: {made:?}");
    }
    // Nothing is needed any more, so nothing is asked.
    guest.run(&["up"]).ends_with(0).says("nothing to do");
    guest.run(&["reset", "--yes"]).ends_with(0);
    // Kafka forgets a topic a moment after it was deleted.
    eventually("nothing is left of the guest", || {
        same(&Vec::<String>::new(), traces(stack, &what))
    });
}

/// What of the guest is in the stack's servers: by name, and of the topics and
/// keys those that `up` listed.
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
        let answer = reqwest::get(url).await.expect("connect");
        answer.json::<Vec<String>>().await.expect("a list")
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
        .filter_map(|one| one.strip_prefix("write the keys "));
    let keys = keys.flat_map(|keys| keys.split(", "));
    let in_redis = keys.filter(|key| stack.stores.redis::<bool>(&["EXISTS", key]));
    let of = |server: &str, name: &str| format!("{server}: {name}");
    let names = in_postgres.split_whitespace();
    let tables = in_clickhouse.split_whitespace();
    names
        .map(|name| of("postgres", name))
        .chain(tables.map(|name| of("clickhouse", name)))
        .chain(in_connect.map(|name| of("connect", &name)))
        .chain(in_kafka.map(|name| of("kafka", &name)))
        .chain(in_redis.map(|name| of("redis", name)))
        .collect()
}

/// A Postgres of its own, emptied, and a project to which it is external.
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
        let is_it = |one: &&Json| one["name"] == "FANOUT_POSTGRES_URL";
        let url = variables.iter().find(is_it).expect("it")["value"].clone();
        let url = url.as_str().expect("a text").to_owned();
        let path = stack.fanout.home().join("bare.yaml");
        fs::write(&path, "services: {postgres: {runtime: external}}\n").expect("a file");
        let guest = stack
            .fanout
            .with("FANOUT_PROJECT", "bare")
            .with("FANOUT_CONFIG", path.to_str().expect("a path in UTF-8"))
            .with("FANOUT_POSTGRES_URL", &url);
        let bare = Self { stack, url, guest };
        // Row-level security is for roles that it can bind.
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
            let done = client.batch_execute(statements).await;
            done.unwrap_or_else(|error| panic!("{error:?}\n{statements}"));
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

    /// Refuses this shape, made on top of what `up` makes itself.
    fn refuses(&self, shape: &str, name: &str) {
        self.guest.run(&["up", "postgres", "--yes"]).ends_with(0);
        self.execute(shape);
        let before = self.relations();
        let refused = self.guest.run(&["up", "postgres", "--yes"]);
        assert_eq!(refused.code, Some(6), "{shape}\n{}", refused.evidence());
        let refused = refused.says(name);
        assert!(
            refused.stderr.contains("\nhint: "),
            "{}",
            refused.evidence()
        );
        assert_eq!(self.relations(), before, "{}", refused.evidence());
        self.empty();
    }

    fn end(self) {
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

fn unsupported_shapes(stack: &Stack) {
    let bare = Bare::start(stack);
    let refused = bare.guest.run(&["up", "postgres"]).ends_with(6);
    let refused = refused.says("CREATE TABLE IF NOT EXISTS public.engagement_events (");
    refused.says("ALTER TABLE public.content REPLICA IDENTITY FULL");
    assert_eq!(bare.relations(), 0);
    let events = "public.engagement_events";
    for (shape, name) in SHAPES {
        bare.refuses(&shape.replace("{events}", events), name);
    }
    bare.execute("CREATE VIEW public.content AS SELECT 1 AS id");
    let doctor = bare.guest.run(&["doctor"]).ends_with(5);
    doctor.says("public.content is a view, not an ordinary table");
    bare.end();
}

/// Shapes, and what each is called.
const SHAPES: [(&str, &str); 15] = [
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
        "column event_ts of public.engagement_events is of type timestamp without time zone",
    ),
    (
        "CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN moody AS mood",
        "domain moody is over an enum",
    ),
];
