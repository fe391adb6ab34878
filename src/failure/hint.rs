//! Hints as data: the commands to run and the sentence around them.
//!
//! The library names the commands. The binary adds the flags and arguments of its invocation.

use std::fmt;

use crate::text::escape::shell_word;

/// A way to fix a problem, for example `docker login, then: fanout up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint(Vec<Part>);

/// A part of a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text for people, which includes the commands of other programs.
    Text(String),
    /// A command of this program.
    Command(Command),
    /// Text in which the binary has to find the commands of this program.
    Unparsed(String),
}

/// A command of this program, with its arguments and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    global_flags: Vec<Flag>,
    path: &'static str,
    arguments: Vec<Word>,
    flags: Vec<Flag>,
    as_written: bool,
}

/// A flag with its value, if it takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub name: &'static str,
    pub value: Option<Word>,
}

/// One word of a command line. Its display form is ready for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A word to pass as it is.
    Literal(String),
    /// A value that the user chooses, for example `<folder>`. It is never quoted.
    Placeholder(&'static str),
}

impl Hint {
    /// Appends text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Part::Text(text.into()));
        self
    }

    /// Appends a command.
    #[must_use]
    pub fn command(mut self, command: Command) -> Self {
        self.0.push(Part::Command(command));
        self
    }

    /// Returns a hint that is known only as text, for example the remedy in a recorded status.
    #[must_use]
    pub fn unparsed(text: impl Into<String>) -> Self {
        Self(vec![Part::Unparsed(text.into())])
    }

    /// Returns the parts in order of display.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl Command {
    /// Returns the command with this path, for example `dlq replay`.
    #[must_use]
    pub fn new(path: &'static str) -> Self {
        Self {
            global_flags: Vec::new(),
            path,
            arguments: Vec::new(),
            flags: Vec::new(),
            as_written: false,
        }
    }

    /// Adds a flag in front of the command, for example `--project`. A command with such a flag
    /// never repeats the arguments of the invocation.
    #[must_use]
    pub fn global_flag(mut self, name: &'static str, value: impl Into<Word>) -> Self {
        let value = Some(value.into());
        self.global_flags.push(Flag { name, value });
        self
    }

    /// Adds a positional argument. A command with arguments never repeats those of the
    /// invocation.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<Word>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a flag with a value.
    #[must_use]
    pub fn flag(mut self, name: &'static str, value: impl Into<Word>) -> Self {
        let value = Some(value.into());
        self.flags.push(Flag { name, value });
        self
    }

    /// Adds a flag without a value.
    #[must_use]
    pub fn switch(mut self, name: &'static str) -> Self {
        self.flags.push(Flag { name, value: None });
        self
    }

    /// Declares the command complete: it never repeats the arguments of the invocation.
    #[must_use]
    pub fn as_written(mut self) -> Self {
        self.as_written = true;
        self
    }

    /// Returns the flags to add to the arguments of an invocation of `path`. Returns `None` if
    /// this is a different command or does not repeat arguments.
    pub fn flags_to_repeat(&self, path: &str) -> Option<&[Flag]> {
        let repeats = self.path == path
            && self.global_flags.is_empty()
            && self.arguments.is_empty()
            && !self.as_written;
        repeats.then_some(self.flags.as_slice())
    }

    /// Returns the words of the command line, without the program.
    pub fn words(&self) -> Vec<Word> {
        let path = self.path.split(' ').map(Word::from);
        flag_words(&self.global_flags)
            .chain(path)
            .chain(self.arguments.iter().cloned())
            .chain(flag_words(&self.flags))
            .collect()
    }
}

fn flag_words(flags: &[Flag]) -> impl Iterator<Item = Word> {
    flags
        .iter()
        .flat_map(|flag| [Some(Word::from(flag.name)), flag.value.clone()])
        .flatten()
}

impl Word {
    /// Returns the word without quotes.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Placeholder(name) => name,
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) | Part::Unparsed(text) => f.write_str(text),
            Part::Command(command) => write!(f, "{command}"),
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fanout")?;
        self.words()
            .iter()
            .try_for_each(|word| write!(f, " {word}"))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(&shell_word(text)),
            Self::Placeholder(name) => f.write_str(name),
        }
    }
}

impl From<Command> for Hint {
    fn from(command: Command) -> Self {
        Self::default().command(command)
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self::default().text(text)
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Self::default().text(text)
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::Literal(text)
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::Literal(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_displayed_as_one_sentence() {
        let up = || Command::new("up");
        let ports = up().flag("--ports", "auto");
        for (hint, text) in [
            (Hint::from("docker info"), "docker info"),
            (ports.into(), "fanout up --ports auto"),
            (
                Hint::from("docker login, then: ")
                    .command(up().argument("redis"))
                    .text(", which resumes the pull"),
                "docker login, then: fanout up redis, which resumes the pull",
            ),
            (
                Command::new("dlq replay").switch("--yes").into(),
                "fanout dlq replay --yes",
            ),
            (
                up().global_flag("--project", Word::Placeholder("<name>"))
                    .into(),
                "fanout --project <name> up",
            ),
            (
                Command::new("logs").argument("my service").into(),
                "fanout logs 'my service'",
            ),
        ] {
            assert_eq!(hint.to_string(), text);
        }
    }

    #[test]
    fn only_a_command_without_arguments_repeats_the_invocation() {
        let up = || Command::new("up");
        let count = |command: Command| command.flags_to_repeat("up").map(<[Flag]>::len);
        assert_eq!(count(up()), Some(0));
        assert_eq!(count(up().flag("--ports", "auto")), Some(1));
        for command in [
            Command::new("down"),
            up().argument("redis"),
            up().global_flag("--runtime", "native"),
            up().as_written(),
        ] {
            assert_eq!(count(command), None);
        }
    }
}
