//! `logs`: the logs of the services, merged in one format and ordered by time.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
};

use serde::Serialize;

use crate::{
    config::Runtime,
    failure::{Command, Error, Kind},
    stack::{
        self, Site, State, choice, definition,
        docker::{self, engine::DockerError, labels::ResourceLabels},
        logs::Reader,
    },
    text::suggest::unknown as unknown_name,
    time::timestamp::Rfc3339,
};

/// Selection of log lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Services to show. Empty means all.
    pub services: Vec<String>,
    /// Time of the first line, in microseconds since the epoch. Lines without a time are always
    /// shown.
    pub since_us: Option<i64>,
    /// Number of last lines to show per service.
    pub tail: Option<usize>,
}

/// A line of a service's log, as the service wrote it. Must be escaped before it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub service: String,
    /// RFC 3339. `None` if the line has no time.
    pub time: Option<String>,
    pub line: String,
    #[serde(skip)]
    time_us: Option<i64>,
}

/// The logs of some services, read together.
#[derive(Debug)]
pub struct Logs {
    readers: BTreeMap<String, Source>,
}

/// Source of a service's lines.
#[derive(Debug)]
enum Source {
    File(Reader),
    Container(docker::logs::Reader),
}

impl Logs {
    /// Opens the logs of the selected services.
    ///
    /// # Errors
    /// If a service is unknown, or the project's container engine does not respond.
    pub async fn open(site: &Site, selection: &Selection) -> Result<Self, Error> {
        let known: Vec<String> = definition::services()?
            .into_iter()
            .map(|one| one.name)
            .collect();
        let unknown = selection.services.iter().find(|name| !known.contains(name));
        if let Some(name) = unknown {
            let message = unknown_name("service", name, &known);
            return Err(Error::new(Kind::Usage, "unknown_service", message)
                .with_hint(Command::new("status")));
        }
        let state = State::load(&site.dir())?;
        let engine = choice::engine_of(site, state.as_ref()).await?;
        let owner = ResourceLabels::new(site);
        let wanted =
            |name: &String| selection.services.is_empty() || selection.services.contains(name);
        let mut readers = BTreeMap::new();
        for name in known.into_iter().filter(wanted) {
            let recorded = state.as_ref().and_then(|state| state.services.get(&name));
            let runtime = recorded.map(|known| known.runtime);
            let source = if let (Some(engine), Some(Runtime::Docker)) = (&engine, runtime) {
                let container = owner.container(&name);
                Source::Container(docker::logs::Reader::new(engine.clone(), container))
            } else {
                let reader = file_reader(site.dir().log(&name), selection);
                Source::File(reader.map_err(unreadable(&name))?)
            };
            readers.insert(name, source);
        }
        Ok(Self { readers })
    }

    /// Returns the selected existing lines of all services, ordered by time.
    ///
    /// # Errors
    /// If an existing log cannot be read.
    pub async fn so_far(&mut self, selection: &Selection) -> Result<Vec<Line>, Error> {
        let mut all = Vec::new();
        for (service, source) in &mut self.readers {
            let mut wanted = Wanted::new(selection);
            match source {
                Source::File(reader) => {
                    let read = reader.visit_lines(&mut |line| wanted.add(line));
                    read.map_err(unreadable(service))?;
                }
                Source::Container(reader) => {
                    let (tail, since_us) = (selection.tail, selection.since_us);
                    let lines = reader.read_existing(tail, since_us).await;
                    let lines = lines.map_err(unsaid(service))?;
                    for line in lines {
                        wanted.add(line);
                    }
                }
            }
            let lines = wanted.lines.into_iter();
            all.extend(lines.map(|line| Line::of(service, line)));
        }
        all.sort_by_key(|line| line.time_us);
        Ok(all)
    }

    /// Returns the lines that were written since the last call.
    ///
    /// # Errors
    /// As [`Self::so_far`].
    pub fn more(&mut self) -> Result<Vec<Line>, Error> {
        let mut all = Vec::new();
        for (service, source) in &mut self.readers {
            let lines = match source {
                Source::File(reader) => reader.read_lines().map_err(unreadable(service))?,
                Source::Container(reader) => reader.read_new(),
            };
            let lines = lines.into_iter();
            all.extend(lines.map(|line| Line::of(service, line)));
        }
        all.sort_by_key(|line| line.time_us);
        Ok(all)
    }

    /// Returns the lines whose end is not written yet. For the last call.
    pub fn rest(&mut self) -> Vec<Line> {
        let readers = self.readers.iter_mut();
        readers
            .filter_map(|(service, source)| match source {
                Source::File(reader) => Some(Line::of(service, reader.take_partial()?)),
                Source::Container(_) => None,
            })
            .collect()
    }

    /// Returns the length of the longest service name.
    #[must_use]
    pub fn width(&self) -> usize {
        self.readers
            .keys()
            .map(String::len)
            .max()
            .unwrap_or_default()
    }
}

impl Line {
    fn of(service: &str, line: stack::logs::Line) -> Self {
        Self {
            service: service.to_owned(),
            time: line.time_us.map(|time| Rfc3339(time).to_string()),
            line: line.text,
            time_us: line.time_us,
        }
    }
}

/// Opens a reader at the first line of a log that may be selected.
fn file_reader(path: PathBuf, selection: &Selection) -> io::Result<Reader> {
    match (selection.tail, selection.since_us) {
        (Some(tail), _) => Reader::at_tail(path, tail),
        (None, Some(since_us)) => Reader::since(path, since_us),
        (None, None) => Ok(Reader::new(path)),
    }
}

/// Collects the selected lines: those that are recent enough, and the last ones of them.
struct Wanted<'a> {
    selection: &'a Selection,
    lines: VecDeque<stack::logs::Line>,
}

impl<'a> Wanted<'a> {
    fn new(selection: &'a Selection) -> Self {
        Self {
            selection,
            lines: VecDeque::new(),
        }
    }

    fn add(&mut self, line: stack::logs::Line) {
        let Selection { since_us, tail, .. } = self.selection;
        let is_recent = |since| line.time_us.is_none_or(|time| time >= since);
        if !since_us.is_none_or(is_recent) {
            return;
        }
        self.lines.push_back(line);
        if tail.is_some_and(|tail| self.lines.len() > tail) {
            self.lines.pop_front();
        }
    }
}

fn log_error(message: String, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Environment, "log_unreadable", message)
        .with_hint(Command::new("doctor"))
        .caused_by(source)
}

fn unsaid(service: &str) -> impl FnOnce(DockerError) -> Error {
    let message = format!("the container engine does not give the log of {service}");
    |source| log_error(message, source)
}

fn unreadable(service: &str) -> impl FnOnce(io::Error) -> Error {
    let message = format!("the log of {service} cannot be read");
    |source| log_error(message, source)
}
