//! Mistakes on the command line and in the configuration: exit 2 before any
//! server is asked, with the name that was probably meant.

use crate::support::Fanout;

#[test]
fn a_bare_call_prints_the_help_and_ends_well() {
    let bare = Fanout::new().run(&[]).with(0);
    let help = Fanout::new().run(&["--help"]).with(0);
    assert_eq!((&bare.stdout, bare.stderr.as_str()), (&help.stdout, ""));
    Fanout::new().run(&["dlq"]).with(2);
}

#[test]
fn what_starts_a_service_is_no_command() {
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
        let said = words(fanout.run(call).with(0).stdout);
        assert!(!said.contains(&"launch".to_owned()), "{call:?}");
    }
    // A mistake in the environment of a call is none of the service's.
    let fanout = fanout.env("FANOUT_OUTPUT", "xml");
    fanout
        .run(&["launch"])
        .with(2)
        .says("stdin holds no launch");
}

#[test]
fn times_and_counts_of_nothing_are_refused() {
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
fn a_range_without_a_moment_in_it_is_refused() {
    for (from, to, says) in [
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
            .says(says)
            .says("hint: fanout backfill --help");
    }
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    for (call, says) in [
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
        Fanout::new().run(call).with(2).says(says);
    }
    for (config, says) in [
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
        fanout.run(&["config", "check"]).with(2).says(says);
    }
    let fanout = Fanout::new().env("FANOUT_BORD_KEY", "x");
    let ended = fanout.run(&["config", "check"]).with(2);
    ended.says("(did you mean \"FANOUT_BOARD_KEY\"?)");
}

#[test]
fn settings_of_nothing_are_refused() {
    for (config, says) in [
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
            "services.redis.ports.main is 0, which is no port",
        ),
    ] {
        let fanout = Fanout::new().config(&format!("{config}\n"));
        fanout.run(&["config", "check"]).with(2).says(says);
    }
}
