//! What the stack's servers refuse: whoever knows the demo's passwords, or
//! makes a browser send a request, reaches only the tables and nothing else on
//! the machine.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use fanout::{
    connections::{Connection, clickhouse::Endpoint, postgres::Postgres},
    stack::native::account,
};
use reqwest::{Method, header};

use crate::{
    Test,
    support::{Stack, Stores, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "clickhouse_gives_access_to_nothing_but_its_tables",
        nothing_else,
    ),
    ("ordinary_statements_on_tables_are_allowed", tables),
    ("requests_of_other_web_sites_are_refused", other_sites),
    ("no_server_runs_as_root", rights),
    ("the_source_role_is_no_superuser", no_superuser),
    (
        "a_superuser_of_an_earlier_version_loses_its_rights",
        earlier_superuser,
    ),
    ("a_custom_password_is_used", own_password),
];

/// Statements that reach outside of the tables, in various spellings. `FILE`
/// stands for a file that every user can read, `NEW` for a new file.
const OUTSIDE: &[&str] = &[
    // files
    "SELECT * FROM file('FILE', LineAsString)",
    "SELECT * FROM FiLe /* a comment */ ('FILE', LineAsString)",
    "SELECT * FROM `file`('FILE', LineAsString)",
    "SELECT * FROM `\\x66ile`('FILE', LineAsString)",
    "SELECT file('FILE')",
    "SELECT \"file\"('FILE')",
    "SELECT #! a comment\n file('FILE')",
    "SELECT arrayMap(x -> file(x), ['FILE'])",
    "WITH (SELECT file('FILE')) AS text SELECT text",
    "(SELECT file('FILE'))",
    "EXPLAIN SELECT file('FILE')",
    "CREATE VIEW default.refused AS SELECT file('FILE') AS text",
    "CREATE TABLE default.refused (x String DEFAULT file('FILE')) ENGINE = Memory",
    "SELECT * FROM default.`FILE`",
    "SELECT * FROM 'FILE'",
    "INSERT INTO default.`NEW` VALUES ('x')",
    "TRUNCATE TABLE default.`FILE`",
    "CREATE VIEW default.refused AS SELECT * FROM default.`FILE`",
    "SELECT * FROM fileCluster('default', 'FILE', LineAsString)",
    "SELECT * FROM format(Values, 'x String', '(file(\\'FILE\\'))')",
    "DESCRIBE TABLE file('FILE', LineAsString)",
    "INSERT INTO FUNCTION file('NEW', CSV, 'x String') VALUES ('x')",
    "INSERT INTO TABLE FUNCTION `file`('NEW', CSV, 'x String') SELECT 'x'",
    "INSERT INTO default.taken VALUES (file('FILE'))",
    "INSERT INTO default.taken FROM INFILE 'FILE' FORMAT LineAsString",
    "INSERT INTO default.taken FROM/**/INFILE 'FILE' FORMAT LineAsString",
    "SELECT 1 INTO OUTFILE 'NEW' FORMAT CSV",
    "SELECT 1 INTO/**/OUTFILE 'NEW' TRUNCATE",
    "CREATE TABLE default.refused (x String) ENGINE = File(CSV, 'NEW')",
    "CREATE TABLE default.refused (x String) ENGINE `File`(CSV)",
    "CREATE TABLE default.refused (x UInt8, y String) ENGINE = EmbeddedRocksDB(0, 'NEW') PRIMARY KEY x",
    "CREATE TABLE default.refused (x UInt8) ENGINE = MergeTree ORDER BY x SETTINGS disk = disk(type = local, path = 'NEW')",
    "CREATE DATABASE refused ENGINE = Filesystem('/')",
    "CREATE DATABASE refused ENGINE = SQLite('NEW')",
    "SELECT * FROM sqlite('NEW', 'x')",
    "DROP DATABASE default",
    "DETACH DATABASE default",
    "ATTACH TABLE default.refused FROM '/etc' (x String) ENGINE = Log",
    "BACKUP DATABASE default TO File('NEW')",
    "RESTORE DATABASE default AS refused FROM File('FILE')",
    "SELECT * FROM format(Protobuf, 'x String', 'x') SETTINGS format_schema = 'FILE:M'",
    "SELECT 1 AS x FORMAT Protobuf SETTINGS output_format_schema = 'NEW'",
    "SELECT 1 AS x FORMAT Template SETTINGS format_template_row = 'FILE'",
    "SELECT 1 SETTINGS additional_result_filter = 'file(\\'FILE\\') != \\'\\''",
    // the network
    "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'x String')",
    "SELECT * FROM UrL('http://127.0.0.1:1/', CSV, 'x String')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', CSV, 'x String')",
    "SELECT * FROM gcs('http://127.0.0.1:1/bucket/key', CSV, 'x String')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM clusterAllReplicas('default', system.one)",
    "SELECT hasColumnInTable('127.0.0.1:1', 'system', 'one', 'dummy')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'x String')",
    "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String, v String')",
    "SELECT * FROM jdbc('a', 'b', 'c')",
    "SELECT * FROM odbc('a', 'b', 'c')",
    "SELECT * FROM azureBlobStorage('a', 'b', 'c')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', CSV, 'x String')",
    "SELECT * FROM iceberg('http://127.0.0.1:1/bucket')",
    "SELECT * FROM deltaLake('http://127.0.0.1:1/bucket')",
    "SELECT * FROM hudi('http://127.0.0.1:1/bucket')",
    "CREATE TABLE default.refused (x String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
    "CREATE TABLE default.refused (x String) ENGINE = S3('http://127.0.0.1:1/bucket/key', CSV)",
    "CREATE TABLE default.refused (x String) ENGINE = Kafka('127.0.0.1:1', 'a', 'b', 'CSV')",
    "CREATE TABLE default.refused (x String) ENGINE = MySQL('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "CREATE TABLE default.refused (x String) ENGINE = PostgreSQL('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "CREATE TABLE default.refused (x String) ENGINE = Distributed('default', system, one)",
    "CREATE TABLE default.refused (x UInt8) ENGINE = MergeTree ORDER BY x SETTINGS disk = disk(type = web, endpoint = 'http://127.0.0.1:1/')",
    "CREATE DATABASE refused ENGINE = PostgreSQL('127.0.0.1:1', 'a', 'b', 'c')",
    "CREATE DATABASE refused ENGINE = MySQL('127.0.0.1:1', 'a', 'b', 'c')",
    "CREATE DICTIONARY default.refused (k UInt64, v String) PRIMARY KEY k SOURCE(HTTP(url 'http://127.0.0.1:1/' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE DICTIONARY default.refused (k UInt64, v String) PRIMARY KEY k SOURCE(FILE(path 'FILE' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE NAMED COLLECTION refused AS url = 'http://127.0.0.1:1/'",
    // programs, and the server itself
    "SELECT * FROM executable('id', TSV, 'x String')",
    "CREATE TABLE default.refused (x String) ENGINE = Executable('id', TSV)",
    "CREATE DICTIONARY default.refused (k UInt64, v String) PRIMARY KEY k SOURCE(EXECUTABLE(command 'id' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE FUNCTION refused AS x -> x",
    "SELECT * FROM Python(self)",
    "SELECT * FROM python('self')",
    "CREATE USER refused",
    "GRANT ALL ON *.* TO default",
    "SELECT * FROM system.users",
    "SYSTEM SHUTDOWN",
    "SELECT 1; SELECT file('FILE')",
];

/// Request settings that would change what a statement can reach.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("SELECT 1", "additional_table_filters", "{'a': 'file(1)'}"),
    ("SELECT 1", "format_schema", "/etc/passwd:M"),
    ("SELECT 1", "output_format_schema", "/tmp/fanout-test-new"),
    ("from x", "dialect", "prql"),
    ("file('/etc/passwd')", "implicit_select", "1"),
    ("SELECT 1", "input_format_record_errors_file_path", "/tmp/x"),
    (
        "INSERT INTO default.taken VALUES (file('/etc/passwd'))",
        "input_format_values_interpret_expressions",
        "1",
    ),
];

/// A client of ClickHouse.
struct ClickHouse<'a> {
    endpoint: Endpoint,
    stack: &'a Stack,
}

impl<'a> ClickHouse<'a> {
    fn new(stack: &'a Stack) -> Self {
        let url = stack.stores.url("FANOUT_CLICKHOUSE_URL");
        Self {
            endpoint: Endpoint::at(&url.into()).expect("a url"),
            stack,
        }
    }

    /// Returns true if ClickHouse is chDB behind fanout's HTTP front end.
    fn is_front(&self) -> bool {
        self.stack.file("data/clickhouse-chdb").is_dir()
    }

    fn send(&self, parameters: &[(&str, &str)], body: &str) -> (u16, String) {
        let url = url::Url::parse_with_params(&self.endpoint.url, parameters).expect("a url");
        let request = reqwest::Client::new()
            .post(url)
            .basic_auth(&self.endpoint.user, Some(self.endpoint.password.reveal()))
            .body(body.to_owned());
        wait_for(async {
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            (status, answer.text().await.expect("a text"))
        })
    }

    fn execute(&self, statement: &str) -> String {
        let (status, message) = self.send(&[], statement);
        assert_eq!(status, 200, "{statement}\n{message}");
        message
    }
}

fn nothing_else(stack: &Stack) {
    let clickhouse = ClickHouse::new(stack);
    if !clickhouse.is_front() {
        eprintln!(
            "skipped: a ClickHouse server of this machine runs instead of fanout's front end"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("create a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))
        .expect("open the folder to all users");
    let (file, new) = (folder.path().join("file"), folder.path().join("new"));
    fs::write(&file, "a secret").expect("write the file");
    clickhouse.execute("CREATE TABLE IF NOT EXISTS default.taken (x String) ENGINE = Memory");
    let fill = |statement: &str| {
        let statement = statement.replace("FILE'", &format!("{}'", file.display()));
        let statement = statement.replace("FILE:", &format!("{}:", file.display()));
        let statement = statement.replace("FILE`", &format!("{}`", file.display()));
        let statement = statement.replace("FILE\\'", &format!("{}\\'", file.display()));
        statement.replace("NEW", &new.display().to_string())
    };
    for statement in OUTSIDE {
        let statement = fill(statement);
        let (status, message) = clickhouse.send(&[], &statement);
        assert!(status >= 400, "{statement}\n{status} {message}");
        assert!(!message.contains("secret"), "{statement}\n{message}");
        assert!(!new.exists(), "{statement}");
    }
    for (statement, setting, value) in SETTINGS {
        let (status, message) = clickhouse.send(&[(setting, value)], statement);
        assert!(status >= 400, "{statement} {setting}\n{status} {message}");
    }
    // The data is sent separately from its statement.
    for (statement, data) in [
        (
            format!(
                "INSERT INTO FUNCTION file('{}', CSV, 'x String') FORMAT CSV",
                new.display()
            ),
            "x\n",
        ),
        (
            "INSERT INTO default.taken FORMAT Values".to_owned(),
            "(file('/etc/passwd'))",
        ),
    ] {
        let (status, message) = clickhouse.send(&[("query", &statement)], data);
        assert!(status >= 400, "{statement}\n{status} {message}");
        assert!(!new.exists(), "{statement}");
    }
    assert_eq!(
        clickhouse.execute("SELECT count() FROM default.taken"),
        "0\n"
    );
    clickhouse.execute("DROP TABLE default.taken SYNC");
}

fn tables(stack: &Stack) {
    let clickhouse = ClickHouse::new(stack);
    for statement in [
        "CREATE DATABASE IF NOT EXISTS allowed",
        "CREATE TABLE allowed.file (url String, s3 UInt8) ENGINE = MergeTree ORDER BY url",
        "INSERT INTO allowed.file (url, s3) VALUES ('file(1)', 1)",
        "INSERT INTO allowed.file SELECT toString(number), 2 FROM numbers(3)",
        "CREATE MATERIALIZED VIEW allowed.seen ENGINE = Memory AS SELECT url FROM allowed.file",
        "ALTER TABLE allowed.file ADD COLUMN engine String DEFAULT 'INTO OUTFILE'",
        "RENAME TABLE allowed.file TO allowed.remote",
        "OPTIMIZE TABLE allowed.remote FINAL",
        "SELECT engine FROM system.tables WHERE engine = 'MergeTree' FORMAT Null",
        "SELECT * FROM values('x String', 'file') FORMAT Null",
        "EXPLAIN SELECT * FROM allowed.remote",
        "SHOW CREATE TABLE allowed.remote",
        "ALTER TABLE allowed.remote DELETE WHERE s3 = 2 SETTINGS mutations_sync = 2",
    ] {
        clickhouse.execute(statement);
    }
    let select = "SELECT url, s3, engine FROM allowed.remote FORMAT CSV";
    assert_eq!(
        clickhouse.execute(select),
        "\"file(1)\",1,\"INTO OUTFILE\"\n"
    );
    let (status, message) = clickhouse.send(
        &[(
            "query",
            "INSERT INTO allowed.remote (s3, url) SETTINGS format_csv_delimiter = ';' FORMAT CSV",
        )],
        "3;rows\n",
    );
    assert_eq!(status, 200, "{message}");
    let select = "SELECT url FROM allowed.remote WHERE s3 = 3";
    assert_eq!(clickhouse.execute(select), "rows\n");
    clickhouse.execute("DROP DATABASE allowed SYNC");
}

fn other_sites(stack: &Stack) {
    let stores = &stack.stores;
    let clickhouse = ClickHouse::new(stack);
    let mut urls = vec![
        format!("{}/status", stores.url("FANOUT_HTTP_URL")),
        format!("{}/healthz", stores.url("FANOUT_HTTP_URL")),
        format!("{}/events", stores.url("FANOUT_EXTERNAL_URL")),
    ];
    if clickhouse.is_front() {
        // Valid credentials make no difference.
        let credentials = "user=app&password=app&query=SELECT+1";
        urls.push(format!("{}/?{credentials}", clickhouse.endpoint.url));
        urls.push(format!("{}/ping", clickhouse.endpoint.url));
    }
    let client = reqwest::Client::new();
    for url_text in &urls {
        let url: url::Url = url_text.parse().expect("a url");
        let own_origin = format!("http://127.0.0.1:{}", url.port().expect("a port"));
        let answer = |name: header::HeaderName, value: &str| {
            let request = client.request(Method::GET, url_text).header(name, value);
            let answer = wait_for(request.send()).expect("an answer");
            let allowed = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed, None, "{url_text}");
            answer.status().as_u16()
        };
        let site = header::HeaderName::from_static("sec-fetch-site");
        for (name, value) in [
            (header::ORIGIN, "http://evil.example"),
            (header::ORIGIN, "null"),
            (header::ORIGIN, "http://127.0.0.1:1"),
            (header::HOST, "evil.example"),
            (header::HOST, "127.0.0.1.evil.example:80"),
            (site.clone(), "cross-site"),
            (site.clone(), "same-site"),
        ] {
            assert_eq!(
                answer(name.clone(), value),
                403,
                "{url_text} {name}: {value}"
            );
        }
        for (name, value) in [
            (header::ORIGIN, own_origin.as_str()),
            (header::HOST, "localhost:1"),
            (header::HOST, "[::1]"),
            (site.clone(), "none"),
            (site, "same-origin"),
        ] {
            assert_eq!(
                answer(name.clone(), value),
                200,
                "{url_text} {name}: {value}"
            );
        }
    }
}

/// Returns the effective user of a process.
fn owner(pid: i32) -> u32 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process status");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_whitespace().nth(1));
    effective.expect("a user").parse().expect("a number")
}

fn rights(stack: &Stack) {
    let test_user = nix::unistd::geteuid();
    for service in ["clickhouse", "redis", "kafka", "connect", "postgres"] {
        let user = owner(stack.pid(service).as_raw());
        if test_user.is_root() {
            assert_ne!(user, 0, "{service}");
        } else {
            assert_eq!(user, test_user.as_raw(), "{service}");
        }
    }
}

/// Returns the error that Postgres reports for a statement.
fn error_of(url: &str, statement: &str) -> String {
    wait_for(async {
        let client = Postgres::new(Connection::new(url.into()))
            .connect()
            .await
            .expect("postgres");
        let done = client.batch_execute(statement).await;
        let error = done.expect_err(statement);
        error.as_db_error().expect(statement).message().to_owned()
    })
}

fn assert_no_superuser(url: &str) {
    for statement in [
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY (SELECT 1) TO '/tmp/fanout-test-new'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_export(1, '/tmp/fanout-test-new')",
        "SET ROLE fanout_superuser",
        "ALTER ROLE app SUPERUSER",
        "ALTER SYSTEM SET archive_command = 'id'",
        "CREATE ROLE other",
    ] {
        let message = error_of(url, statement);
        let refused =
            message.contains("permission denied") || message.contains("must be superuser");
        assert!(refused, "{statement}: {message}");
    }
    // The superuser does not share this password, and has none.
    let superuser = url.replacen("//app:app@", "//fanout_superuser:app@", 1);
    let superuser = Postgres::new(Connection::new(superuser.into()));
    let refused = wait_for(superuser.connect()).err();
    let refused = refused.as_ref().and_then(|error| error.as_db_error());
    let refused = refused.expect("the login is refused").message();
    assert!(refused.contains("authentication failed"), "{refused}");
}

fn no_superuser(stack: &Stack) {
    let url = stack.stores.url("FANOUT_POSTGRES_URL");
    assert_no_superuser(url);
    let owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database \
                 WHERE datname = current_database()";
    assert_eq!(stack.stores.postgres_text(owner), "app");
}

/// Returns the path of a program of the stack's Postgres.
fn postgres_program(stack: &Stack, name: &str) -> std::path::PathBuf {
    let pid = stack.pid("postgres").as_raw();
    let server = fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
    server
        .canonicalize()
        .expect("resolve the program's path")
        .with_file_name(name)
}

/// Runs a program as the same user as the stack's Postgres.
fn run(program: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(account) = account::unprivileged("postgres").expect("a user") {
        command.uid(account.uid).gid(account.gid);
    }
    let mut child = command.spawn().expect("start the program");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, input.as_bytes()).expect("write to the program");
    drop(stdin);
    let ended = child.wait_with_output().expect("wait for the program");
    assert!(ended.status.success(), "{arguments:?}\n{ended:?}");
}

/// Creates a Postgres data folder as earlier versions did: the role is the
/// superuser that `initdb` creates.
fn create_data_of_earlier_version(stack: &Stack, data: &Path) {
    let parent = data.parent().expect("a parent folder");
    fs::create_dir_all(parent).expect("create the parent folder");
    let password = parent.join("password");
    fs::write(&password, "app\n").expect("write the password file");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644))
        .expect("open the password file");
    match account::unprivileged("postgres").expect("a user") {
        Some(account) => account.create_folder(data).expect("create the data folder"),
        None => fs::create_dir(data).expect("create the data folder"),
    }
    let folder = data.to_str().expect("a path in UTF-8");
    let file = format!("--pwfile={}", password.display());
    let initdb = postgres_program(stack, "initdb");
    let arguments = [
        "-D",
        folder,
        "-U",
        "app",
        &file,
        "--auth=scram-sha-256",
        "-E",
        "UTF8",
    ];
    run(&initdb, &arguments, "");
    let server = postgres_program(stack, "postgres");
    let objects = "CREATE TABLE public.kept (id serial PRIMARY KEY)\n\
                   INSERT INTO public.kept DEFAULT VALUES\n\
                   CREATE SCHEMA \"Odd Name\"\n\
                   CREATE VIEW \"Odd Name\".seen AS SELECT * FROM public.kept\n\
                   CREATE TYPE \"Odd Name\".kind AS ENUM ('a')\n\
                   CREATE FUNCTION \"Odd Name\".one() RETURNS int LANGUAGE sql AS 'SELECT 1'\n";
    run(
        &server,
        &["--single", "-D", folder, "postgres"],
        "CREATE DATABASE app\n",
    );
    run(&server, &["--single", "-D", folder, "app"], objects);
    fs::remove_file(password).expect("remove the password file");
}

fn earlier_superuser(stack: &Stack) {
    let fanout = stack.fanout.with("FANOUT_PROJECT", "earlier");
    let data = fanout.home().join("earlier/data/postgres");
    create_data_of_earlier_version(stack, &data);
    let line = ["--runtime", "native", "up", "postgres", "--ports", "auto"];
    let up = fanout.run(&line).ends_with(0);
    up.says("role app is no longer a superuser");
    let stores = Stores::of(&fanout);
    assert_no_superuser(stores.url("FANOUT_POSTGRES_URL"));
    let strangers = "WITH schemas AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'Odd Name')) \
         SELECT coalesce(string_agg(what, ', '), 'none') FROM (\
         SELECT relname, relowner FROM pg_class WHERE relnamespace IN (SELECT oid FROM schemas) \
         UNION ALL SELECT proname, proowner FROM pg_proc WHERE pronamespace IN (SELECT oid FROM schemas) \
         UNION ALL SELECT typname, typowner FROM pg_type WHERE typnamespace IN (SELECT oid FROM schemas) \
         UNION ALL SELECT nspname, nspowner FROM pg_namespace WHERE nspname = 'Odd Name' \
         UNION ALL SELECT pubname, pubowner FROM pg_publication) AS owned (what, owner) \
         WHERE owner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)";
    assert_eq!(stores.postgres_text(strangers), "none");
    // The existing objects remain usable.
    stores.postgres("INSERT INTO kept DEFAULT VALUES; ALTER TABLE kept ADD COLUMN more text");
    let rows = "SELECT count(*)::text FROM \"Odd Name\".seen";
    assert_eq!(stores.postgres_text(rows), "2");
    fanout
        .run(&["up", "postgres"])
        .ends_with(0)
        .says("nothing to do");
    fanout.run(&["reset", "--yes"]).ends_with(0);
}

fn own_password(stack: &Stack) {
    let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let url = format!("http://operator:s3cret%21@127.0.0.1:{port}");
    let fanout = stack
        .fanout
        .with("FANOUT_PROJECT", "own")
        .with("FANOUT_CLICKHOUSE_URL", &url);
    let line = ["--runtime", "native", "up", "clickhouse", "--ports", "auto"];
    fanout.run(&line).ends_with(0);
    // Every later command finds the password without being given it again.
    let later = stack.fanout.with("FANOUT_PROJECT", "own");
    let stores = Stores::of(&later);
    assert_eq!(stores.url("FANOUT_CLICKHOUSE_URL"), url);
    assert_eq!(stores.clickhouse("SELECT 1"), "1\n");
    let masked = later.run(&["env"]).ends_with(0);
    assert!(!masked.stdout.contains("s3cret"), "{}", masked.evidence());
    let client = reqwest::Client::new();
    for (user, password) in [("app", "app"), ("operator", "app"), ("default", "")] {
        let request = client.post(format!("http://127.0.0.1:{port}"));
        let request = request.basic_auth(user, Some(password)).body("SELECT 1");
        let answer = wait_for(request.send()).expect("an answer");
        assert_eq!(answer.status(), 403, "{user}");
    }
    let status = later.document(0, &["status"]);
    let services = status["services"].as_array().expect("services");
    let server = services
        .iter()
        .find(|service| service["name"] == "clickhouse");
    let pid = server
        .and_then(|service| service["pid"].as_i64())
        .expect("a pid");
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("read the command line");
    assert!(!line.contains("s3cret"), "{line}");
    later.run(&["reset", "--yes"]).ends_with(0);
}
