//! Hints as they are typed after this call: about the same project and the same
//! configuration, and where the same command is to be typed again, with all
//! that was asked of it.

use fanout::escape::shell_word;

use crate::global::Global;

/// How a hint's command begins.
const PROGRAM: &str = "fanout ";

/// What hints have to repeat.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Global flags and their values.
    flags: Vec<(&'static str, String)>,
    /// The command that was called: `dlq replay`.
    path: String,
    /// Its arguments as they were typed, without the program's name.
    typed: Vec<String>,
}

impl Hints {
    /// The project, where it is not the default one, and what was given on the
    /// command line. What the environment says, it says to the next call too.
    pub fn of(global: &Global) -> Self {
        let mut flags = Vec::new();
        if !global.project.is_default() {
            flags.push(("--project", global.project.to_string()));
        }
        flags.extend(global.given.iter().cloned());
        let typed = std::env::args_os().skip(1);
        Self {
            flags,
            path: global.path.clone(),
            typed: typed
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
        }
    }

    /// A failure's hint: where it says to run this command again, what was
    /// asked of the command stays, and flags of the hint's own are laid over it.
    /// A hint that names its own range of history is a complete command: with
    /// the old arguments it would be another one.
    pub fn retype(&self, hint: &str) -> String {
        let command = format!("{PROGRAM}{}", self.path);
        let Some((before, after)) = hint.split_once(&command) else {
            return hint.to_owned();
        };
        match flags_of(after) {
            Some((flags, rest)) if !self.path.is_empty() && !is_complete(&flags) => {
                format!("{before}{}{rest}", self.again(&flags))
            }
            _ => hint.to_owned(),
        }
    }

    /// This call with other flags.
    fn again(&self, flags: &[(&str, Option<&str>)]) -> String {
        let mut typed = self.typed.clone();
        for (flag, value) in flags {
            remove(&mut typed, flag, value.is_some());
            // Behind `--` it would be a name.
            let end = typed.iter().position(|word| word == "--");
            let end = end.unwrap_or(typed.len());
            let words = [Some(*flag), *value].into_iter().flatten();
            typed.splice(end..end, words.map(str::to_owned));
        }
        let words: Vec<_> = typed.iter().map(|word| shell_word(word)).collect();
        format!("{PROGRAM}{}", words.join(" "))
    }

    /// Adds the flags to each `fanout COMMAND` in a hint, but none that the
    /// command has already.
    pub fn address(&self, hint: &str) -> String {
        let mut addressed = String::with_capacity(hint.len() + 32);
        let mut rest = hint;
        while let Some(at) = rest.find(PROGRAM) {
            let (before, after) = rest.split_at(at + PROGRAM.len());
            addressed.push_str(before);
            let begins = at == 0 || rest[..at].ends_with([' ', '`', '(', '"']);
            let is_command = after.starts_with(|letter: char| letter.is_ascii_lowercase())
                || after.starts_with("--");
            if begins && is_command {
                let end = after.find(PROGRAM).unwrap_or(after.len());
                for (flag, value) in self.missing(&after[..end]) {
                    addressed.push_str(&format!("{flag} {} ", shell_word(value)));
                }
            }
            rest = after;
        }
        addressed.push_str(rest);
        addressed
    }

    fn missing<'a>(&'a self, command: &'a str) -> impl Iterator<Item = &'a (&'static str, String)> {
        let has = |flag: &str| {
            let mut words = command.split([' ', '`', '"', '\'']);
            words.any(|word| is_flag(word, flag))
        };
        self.flags.iter().filter(move |(flag, _)| !has(flag))
    }
}

/// Whether a word is this flag: `--project` or `--project=blue`.
fn is_flag(word: &str, flag: &str) -> bool {
    let rest = word.strip_prefix(flag);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// Whether the flags of a hint say all that its command needs.
fn is_complete(flags: &[(&str, Option<&str>)]) -> bool {
    flags.iter().any(|(flag, _)| is_flag(flag, "--from"))
}

/// Takes a flag away, with its value where it has one.
fn remove(words: &mut Vec<String>, flag: &str, has_value: bool) {
    while let Some(at) = words.iter().position(|word| is_flag(word, flag)) {
        let two_words = has_value && words[at] == flag && at + 1 < words.len();
        words.drain(at..=at + usize::from(two_words));
    }
}

/// The flags that a hint gives its command, and what follows them. None where
/// the hint names something of its own: then it is another call.
fn flags_of(mut text: &str) -> Option<(Vec<(&str, Option<&str>)>, &str)> {
    let mut flags: Vec<(&str, Option<&str>)> = Vec::new();
    while let Some(rest) = text.strip_prefix(' ') {
        let end = rest.find([' ', ',', ';', '`', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word == "--help" {
            return None;
        }
        match flags.last_mut() {
            _ if word.starts_with("--") => flags.push((word, None)),
            Some((_, value @ None)) => *value = Some(word),
            _ => return None,
        }
        text = after;
    }
    let ends = text.is_empty() || text.starts_with([',', ';', '`', '"']);
    ends.then_some((flags, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(flags: &[(&'static str, &str)]) -> Hints {
        let owned = flags
            .iter()
            .map(|(flag, value)| (*flag, (*value).to_owned()));
        Hints {
            flags: owned.collect(),
            ..Hints::default()
        }
    }

    fn called(path: &str, typed: &[&str]) -> Hints {
        Hints {
            path: path.to_owned(),
            typed: typed.iter().map(|word| (*word).to_owned()).collect(),
            ..Hints::default()
        }
    }

    #[test]
    fn a_hint_is_typed_for_its_project() {
        let blue = hints(&[("--project", "blue")]);
        for (hint, addressed) in [
            ("fanout up", "fanout --project blue up"),
            (
                "run `fanout run`, then: fanout verify",
                "run `fanout --project blue run`, then: fanout --project blue verify",
            ),
            ("fanout --project blue reset", "fanout --project blue reset"),
            (
                "fanout reset --project=blue --yes",
                "fanout reset --project=blue --yes",
            ),
            (
                "remedy=\"fanout up\"",
                "remedy=\"fanout --project blue up\"",
            ),
            ("cd /opt/fanout && make", "cd /opt/fanout && make"),
        ] {
            assert_eq!(blue.address(hint), addressed);
            assert_eq!(blue.address(addressed), addressed);
            assert_eq!(Hints::default().address(hint), hint);
        }
    }

    #[test]
    fn a_hint_keeps_the_other_flags_that_were_given_but_for_its_own() {
        let hints = hints(&[("--config", "a b.yaml"), ("--runtime", "docker")]);
        assert_eq!(
            hints.address("fanout up"),
            "fanout --config 'a b.yaml' --runtime docker up"
        );
        assert_eq!(
            hints.address("fanout --runtime native up"),
            "fanout --config 'a b.yaml' --runtime native up"
        );
    }

    #[test]
    fn a_hint_to_run_the_command_again_keeps_what_was_asked() {
        for (path, typed, hint, retyped) in [
            (
                "dlq replay",
                &["dlq", "replay", "0:6", "--sink", "http"][..],
                "fanout dlq replay --yes",
                "fanout dlq replay 0:6 --sink http --yes",
            ),
            (
                "dlq replay",
                &["dlq", "replay", "--", "0:6"],
                "fanout dlq replay --yes",
                "fanout dlq replay --yes -- 0:6",
            ),
            (
                "reset",
                &["--config", "my file.yaml", "reset"],
                "fanout reset --yes",
                "fanout --config 'my file.yaml' reset --yes",
            ),
            (
                "up",
                &["up", "redis", "--ports=fixed"],
                "fanout up --ports auto",
                "fanout up redis --ports auto",
            ),
            (
                "up",
                &["up", "--ports", "fixed", "redis"],
                "make room, then: fanout up --ports auto, or wait",
                "make room, then: fanout up redis --ports auto, or wait",
            ),
        ] {
            assert_eq!(called(path, typed).retype(hint), retyped);
        }
    }

    #[test]
    fn a_hint_that_is_a_complete_command_takes_nothing_of_the_old_one() {
        let reconcile = "fanout backfill --from earliest --source database --prune";
        let aside = format!("{reconcile}, which moves the table aside and makes it anew");
        for (typed, hint) in [
            (
                &["backfill", "--from", "2h", "--sinks", "http"][..],
                reconcile,
            ),
            (
                &["backfill", "--from=2h", "--to", "1h", "--timeout", "9s"],
                reconcile,
            ),
            (&["backfill", "--from", "2h"], aside.as_str()),
            (
                &["backfill", "--from", "2h"],
                "fanout backfill --from 2h --source database --sinks clickhouse",
            ),
        ] {
            assert_eq!(called("backfill", typed).retype(hint), hint);
        }
        let mut blue = called("backfill", &["--project", "blue", "backfill"]);
        blue.flags.push(("--project", "blue".to_owned()));
        assert_eq!(
            blue.address(&blue.retype(reconcile)),
            "fanout --project blue backfill --from earliest --source database --prune"
        );
    }

    #[test]
    fn a_hint_about_something_else_stays_as_it_is() {
        let up = called("up", &["up", "redis"]);
        for hint in [
            "fanout up connect",
            "fanout up --help",
            "fanout upper",
            "fanout logs redis",
            "fanout --runtime native up",
            "",
        ] {
            assert_eq!(up.retype(hint), hint);
        }
        assert_eq!(Hints::default().retype("fanout up"), "fanout up");
    }
}
