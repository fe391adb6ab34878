//! Completes the commands in hints: adds the flags of this invocation and, if a
//! hint repeats this command, its arguments.

use fanout::{
    failure::{Command, Flag, Hint, Part, Word},
    text::escape::shell_word,
};

use crate::global::Global;

/// Prefix of a command in a hint.
const PROGRAM: &str = "fanout ";

/// Flags and arguments that hints repeat.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Global flags and their values.
    flags: Vec<(&'static str, String)>,
    /// The command that was run, for example `dlq replay`.
    command_path: String,
    /// All command-line arguments, without the program name.
    arguments: Vec<String>,
}

impl Hints {
    /// Collects the project, unless it is the default, and the flags on the
    /// command line. Environment variables apply to the next command anyway.
    pub fn new(global: &Global) -> Self {
        let mut flags = Vec::new();
        if !global.project.is_default() {
            flags.push(("--project", global.project.to_string()));
        }
        flags.extend(global.repeated_flags.iter().cloned());
        let arguments = std::env::args_os().skip(1);
        Self {
            flags,
            command_path: global.command_path.clone(),
            arguments: arguments
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
        }
    }

    /// Returns the text of a hint. Its commands get the flags of this invocation
    /// and, if they repeat this command, its arguments.
    pub fn complete(&self, hint: &Hint) -> String {
        let parts = hint.parts().iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Command(command) => self.complete_command(command),
            Part::Unparsed(text) => self.complete_text(text),
        });
        parts.collect()
    }

    fn complete_command(&self, command: &Command) -> String {
        let words = match command.flags_to_repeat(&self.command_path) {
            Some(flags) => self.repeat_invocation(flags),
            None => command.words(),
        };
        let mut line = PROGRAM.to_owned();
        for (flag, value) in &self.flags {
            if !words.iter().any(|word| is_flag(word.as_str(), flag)) {
                line.push_str(&format!("{flag} {} ", shell_word(value)));
            }
        }
        let words: Vec<String> = words.iter().map(Word::to_string).collect();
        line + &words.join(" ")
    }

    fn repeat_invocation(&self, flags: &[Flag]) -> Vec<Word> {
        let flags: Vec<_> = flags
            .iter()
            .map(|flag| (flag.name, flag.value.as_ref().map(Word::as_str)))
            .collect();
        let words = self.arguments_with(&flags);
        words.into_iter().map(Word::from).collect()
    }

    /// Completes a textual hint: the same as [`Hints::complete`], but the commands
    /// have to be found in the text.
    pub fn complete_text(&self, hint: &str) -> String {
        self.add_flags(&self.repeat_arguments(hint))
    }

    /// Completes a hint that repeats this command: keeps the original arguments
    /// and applies the hint's flags to them. A hint with `--from` is a complete
    /// command and stays unchanged: the original arguments would change its
    /// meaning.
    fn repeat_arguments(&self, hint: &str) -> String {
        let command = format!("{PROGRAM}{}", self.command_path);
        let Some((before, after)) = hint.split_once(&command) else {
            return hint.to_owned();
        };
        match parse_flags(after) {
            Some((flags, rest)) if !self.command_path.is_empty() && !is_complete(&flags) => {
                format!("{before}{}{rest}", self.with_flags(&flags))
            }
            _ => hint.to_owned(),
        }
    }

    /// Returns the original command line with these flags replaced.
    fn with_flags(&self, flags: &[(&str, Option<&str>)]) -> String {
        let arguments = self.arguments_with(flags);
        let words: Vec<_> = arguments.iter().map(|word| shell_word(word)).collect();
        format!("{PROGRAM}{}", words.join(" "))
    }

    /// Returns the original arguments with these flags replaced.
    fn arguments_with(&self, flags: &[(&str, Option<&str>)]) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        for (flag, value) in flags {
            remove_flag(&mut arguments, flag, value.is_some());
            // After `--`, the flag would be parsed as a positional argument.
            let end = arguments.iter().position(|word| word == "--");
            let end = end.unwrap_or(arguments.len());
            let words = [Some(*flag), *value].into_iter().flatten();
            arguments.splice(end..end, words.map(str::to_owned));
        }
        arguments
    }

    /// Adds the flags to each `fanout COMMAND` in a hint, except flags that the
    /// command already has.
    pub fn add_flags(&self, hint: &str) -> String {
        let mut completed = String::with_capacity(hint.len() + 32);
        let mut rest = hint;
        while let Some(start) = rest.find(PROGRAM) {
            let (before, after) = rest.split_at(start + PROGRAM.len());
            completed.push_str(before);
            let is_word_start = start == 0 || rest[..start].ends_with([' ', '`', '(', '"']);
            let is_command = after.starts_with(|letter: char| letter.is_ascii_lowercase())
                || after.starts_with("--");
            if is_word_start && is_command {
                let end = after.find(PROGRAM).unwrap_or(after.len());
                for (flag, value) in self.missing_flags(&after[..end]) {
                    completed.push_str(&format!("{flag} {} ", shell_word(value)));
                }
            }
            rest = after;
        }
        completed.push_str(rest);
        completed
    }

    fn missing_flags<'a>(
        &'a self,
        command: &'a str,
    ) -> impl Iterator<Item = &'a (&'static str, String)> {
        let has = |flag: &str| {
            let mut words = command.split([' ', '`', '"', '\'']);
            words.any(|word| is_flag(word, flag))
        };
        self.flags.iter().filter(move |(flag, _)| !has(flag))
    }
}

/// Returns true if a word is this flag: `--project` or `--project=blue`.
fn is_flag(word: &str, flag: &str) -> bool {
    let rest = word.strip_prefix(flag);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// Returns true if a hint with these flags is a complete command, that is, if
/// it has `--from`.
fn is_complete(flags: &[(&str, Option<&str>)]) -> bool {
    flags.iter().any(|(flag, _)| is_flag(flag, "--from"))
}

/// Removes a flag and its value, if it has one.
fn remove_flag(words: &mut Vec<String>, flag: &str, has_value: bool) {
    while let Some(index) = words.iter().position(|word| is_flag(word, flag)) {
        let is_pair = has_value && words[index] == flag && index + 1 < words.len();
        words.drain(index..=index + usize::from(is_pair));
    }
}

/// Parses the flags after a command in a hint. Returns them and the remaining
/// text, or `None` if the hint has positional arguments and is therefore a
/// different command.
fn parse_flags(mut text: &str) -> Option<(Vec<(&str, Option<&str>)>, &str)> {
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
    let is_end = text.is_empty() || text.starts_with([',', ';', '`', '"']);
    is_end.then_some((flags, text))
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

    fn invocation(command_path: &str, arguments: &[&str]) -> Hints {
        Hints {
            command_path: command_path.to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            ..Hints::default()
        }
    }

    #[test]
    fn a_hint_includes_the_project_flag() {
        let blue = hints(&[("--project", "blue")]);
        for (hint, completed) in [
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
            assert_eq!(blue.add_flags(hint), completed);
            assert_eq!(blue.add_flags(completed), completed);
            assert_eq!(Hints::default().add_flags(hint), hint);
        }
    }

    #[test]
    fn given_flags_are_added_unless_the_hint_has_them() {
        let hints = hints(&[("--config", "a b.yaml"), ("--runtime", "docker")]);
        assert_eq!(
            hints.add_flags("fanout up"),
            "fanout --config 'a b.yaml' --runtime docker up"
        );
        assert_eq!(
            hints.add_flags("fanout --runtime native up"),
            "fanout --config 'a b.yaml' --runtime native up"
        );
    }

    #[test]
    fn a_hint_that_repeats_the_command_keeps_its_arguments() {
        for (path, arguments, hint, completed) in [
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
            assert_eq!(
                invocation(path, arguments).repeat_arguments(hint),
                completed
            );
        }
    }

    #[test]
    fn a_complete_hint_ignores_the_original_arguments() {
        let reconcile = "fanout backfill --from earliest --source database --prune";
        let with_remark = format!("{reconcile}, which renames the table and creates a new one");
        for (arguments, hint) in [
            (
                &["backfill", "--from", "2h", "--sinks", "http"][..],
                reconcile,
            ),
            (
                &["backfill", "--from=2h", "--to", "1h", "--timeout", "9s"],
                reconcile,
            ),
            (&["backfill", "--from", "2h"], with_remark.as_str()),
            (
                &["backfill", "--from", "2h"],
                "fanout backfill --from 2h --source database --sinks clickhouse",
            ),
        ] {
            let hints = invocation("backfill", arguments);
            assert_eq!(hints.repeat_arguments(hint), hint);
        }
        let mut blue = invocation("backfill", &["--project", "blue", "backfill"]);
        blue.flags.push(("--project", "blue".to_owned()));
        assert_eq!(
            blue.add_flags(&blue.repeat_arguments(reconcile)),
            "fanout --project blue backfill --from earliest --source database --prune"
        );
    }

    #[test]
    fn a_structured_hint_is_completed_like_its_text() {
        let up = || Command::new("up");
        let pull = Hint::from("docker pull redis, then: ").command(up().flag("--pull", "missing"));
        for hint in [
            Hint::from(up()),
            Hint::from(up()).text(", which resumes the pull"),
            up().flag("--ports", "auto").into(),
            up().argument("postgres").into(),
            up().global_flag("--project", "green").into(),
            up().global_flag("--runtime", "native").into(),
            Command::new("config show").into(),
            Hint::from("docker info"),
            pull,
            Hint::unparsed("make room, then: fanout up --ports auto, or wait"),
        ] {
            for (path, arguments) in [
                ("up", &["up", "redis", "--ports", "fixed"][..]),
                ("", &[]),
                (
                    "up",
                    &["--project=blue", "up", "--pull=never", "--", "redis"],
                ),
                ("reset", &["reset", "--yes"]),
            ] {
                let mut hints = invocation(path, arguments);
                let text = hint.to_string();
                assert_eq!(hints.complete(&hint), hints.complete_text(&text));
                hints.flags = vec![
                    ("--project", "blue".to_owned()),
                    ("--config", "a b.yaml".to_owned()),
                ];
                assert_eq!(hints.complete(&hint), hints.complete_text(&text));
            }
        }
    }

    #[test]
    fn a_command_is_kept_as_written() {
        let hints = invocation("stub", &["stub", "--data", "events"]);
        let folder = Word::Placeholder("<another folder>");
        let command = Command::new("stub").flag("--data", folder).as_written();
        let completed = hints.complete(&command.into());
        assert_eq!(completed, "fanout stub --data <another folder>");
    }

    #[test]
    fn a_hint_with_another_command_is_unchanged() {
        let up = invocation("up", &["up", "redis"]);
        for hint in [
            "fanout up connect",
            "fanout up --help",
            "fanout upper",
            "fanout logs redis",
            "fanout --runtime native up",
            "",
        ] {
            assert_eq!(up.repeat_arguments(hint), hint);
        }
        assert_eq!(Hints::default().repeat_arguments("fanout up"), "fanout up");
    }
}
