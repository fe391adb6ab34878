//! Mistakes on the command line and in the configuration exit with 2 before any
//! connection is made, and suggest the closest valid name.

use crate::support::Fanout;

#[test]
fn a_call_without_arguments_prints_the_help_and_succeeds() {
    let bare = Fanout::new().run(&[]).with(0);
    let help = Fanout::new().run(&["--help"]).with(0);
    assert_eq!((&bare.stdout, bare.stderr.as_str()), (&help.stdout, ""));
    Fanout::new().run(&["dlq"]).with(2);
}

#[test]
fn the_internal_launcher_is_not_a_command() {
    let fanout = Fanout::new();
    fanout.run(&["help", "launch"]).with(2).says("launch");
    let words = |text: String| -> Vec<String> {
        let separators = |letter: char| !letter.is_ascii_alphanumeric();
        text.split(separators).map(str::to_owned).collect()
    };
    for call in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["man"],
        &["--help"],
    ] {
        let output = words(fanout.run(call).with(0).stdout);
        assert!(!output.contains(&"launch".to_owned()), "{call:?}");
    }
    // A service ignores invalid environment variables of the caller.
    let fanout = fanout.env("FANOUT_OUTPUT", "xml");
    fanout
        .run(&["launch"])
        .with(2)
        .says("stdin contains no valid task");
}

#[test]
fn zero_durations_and_counts_are_rejected() {
    for call in [
        &["up", "--timeout", "0s"][..],
        &["down", "--timeout", "0"],
        &["reset", "--timeout", "0ms"],
        &["connector", "apply", "--timeout", "0s"],
        &["seed", "--rate", "0"],
        &["seed", "--rate", "-1"],
        &["seed", "--rate", "nan"],
        &["seed", "--content", "0"],
        &["seed", "--rate", "1", "--duration", "0s"],
        &["run", "--until-idle", "--timeout", "0s"],
        &["smoke", "--timeout", "0s"],
        &["smoke", "--latency-budget", "0s"],
        &["peek", "kafka", "-n", "0"],
        &["leaderboard", "--limit", "0"],
        &["leaderboard", "--watch", "0s"],
        &["leaderboard", "--watch", "-1s"],
        &["verify", "--timeout", "0s"],
        &["verify", "--timeout", "99999999999h"],
        &["dlq", "ls", "-n", "0"],
        &["dlq", "replay", "--timeout", "0s"],
        &["backfill", "--from", "1h", "--timeout", "0s"],
        &["logs", "--tail", "0"],
        &["logs", "--since", "2199-01-01T00:00:00Z"],
    ] {
        let ended = Fanout::new().run(call).with(2);
        assert!(
            ended.stderr.contains("hint: fanout "),
            "{call:?}: {ended:#?}"
        );
    }
}

#[test]
fn an_empty_range_is_rejected() {
    for (from, to, message) in [
        ("2h", "3h", "the range runs backwards: --from 2"),
        ("2h", "2h", "the range is empty"),
        (
            "earliest",
            "earliest",
            "--to earliest leaves nothing to replay",
        ),
        ("2199-01-01T00:00:00Z", "1h", "is in the future"),
    ] {
        let ended = Fanout::new().run(&["backfill", "--from", from, "--to", to]);
        ended
            .with(2)
            .says(message)
            .says("hint: fanout backfill --help");
    }
}

#[test]
fn an_unknown_name_suggests_the_closest_one() {
    for (call, message) in [
        (
            &["dlq", "ls", "--sink", "typo"][..],
            "unknown sink \"typo\", expected one of redis, clickhouse, http, content\n",
        ),
        (&["dlq", "ls", "--sink", "htpp"], "(did you mean \"http\"?)"),
        (
            &["dlq", "replay", "--code", "bad_uid"],
            "(did you mean \"bad_uuid\"?)",
        ),
        (
            &["backfill", "--from", "1h", "--sinks", "redsi"],
            "(did you mean \"redis\"?)",
        ),
        (&["run", "--sinks", "redsi"], "(did you mean \"redis\"?)"),
        (&["logs", "postgers"], "(did you mean \"postgres\"?)"),
        (&["down", "postgers"], "(did you mean \"postgres\"?)"),
        (&["up", "postgers"], "(did you mean \"postgres\"?)"),
        (&["peek", "rediss"], "a similar value exists: 'redis'"),
        (
            &["leaderbord"],
            "a similar subcommand exists: 'leaderboard'",
        ),
        (
            &["up", "--prots", "auto"],
            "a similar argument exists: '--ports'",
        ),
    ] {
        Fanout::new().run(call).with(2).says(message);
    }
    for (config, message) in [
        (
            "board: {windw_seconds: 60}",
            "(did you mean \"window_seconds\"?)",
        ),
        ("bord: {key: x}", "(did you mean \"board\"?)"),
        (
            "services: {redsi: {runtime: external}}",
            "(did you mean \"redis\"?)",
        ),
        (
            "services: {redis: {runtime: extern}}",
            "(did you mean \"external\"?)",
        ),
        (
            "services: {redis: {port: {main: 1}}}",
            "(did you mean \"ports\"?)",
        ),
        (
            "services: {redis: {ports: {mian: 1}}}",
            "(did you mean \"main\"?)",
        ),
        ("pipeline: {sinks: [redsi]}", "(did you mean \"redis\"?)"),
    ] {
        let fanout = Fanout::new().config(&format!("{config}\n"));
        fanout.run(&["config", "check"]).with(2).says(message);
    }
    let fanout = Fanout::new().env("FANOUT_BORD_KEY", "x");
    let ended = fanout.run(&["config", "check"]).with(2);
    ended.says("(did you mean \"FANOUT_BOARD_KEY\"?)");
}

#[test]
fn zero_settings_are_rejected() {
    for (config, message) in [
        (
            "redis: {request_timeout_ms: 0}",
            "redis.request_timeout_ms: must be at least 1",
        ),
        (
            "kafka: {session_timeout_ms: 0}",
            "kafka.session_timeout_ms: must be at least 1",
        ),
        (
            "services: {redis: {ports: {main: 0}}}",
            "services.redis.ports.main is 0, which is not a valid port",
        ),
    ] {
        let fanout = Fanout::new().config(&format!("{config}\n"));
        fanout.run(&["config", "check"]).with(2).says(message);
    }
}
