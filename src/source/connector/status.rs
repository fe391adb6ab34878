//! The status of a connector in Connect, and the root cause of a failure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// A connector and its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectorStatus {
    pub name: String,
    pub state: State,
    pub worker: Option<String>,
    /// Root cause, if the connector itself has failed.
    pub cause: Option<String>,
    pub tasks: Vec<TaskStatus>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskStatus {
    pub id: u32,
    pub state: State,
    pub worker: Option<String>,
    /// Root cause, if the task has failed.
    pub cause: Option<String>,
}

/// State of a connector or task, as reported by Connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    Unassigned,
    Running,
    Paused,
    Stopped,
    Failed,
    Restarting,
    Destroyed,
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Unassigned => "unassigned",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Restarting => "restarting",
            Self::Destroyed => "destroyed",
            Self::Unknown => "unknown",
        })
    }
}

/// The document of `GET /connectors/X/status`.
#[derive(Debug, Deserialize)]
struct Document {
    name: String,
    connector: Part,
    #[serde(default)]
    tasks: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    id: u32,
    state: State,
    worker_id: Option<String>,
    trace: Option<String>,
}

impl Part {
    fn cause(&self) -> Option<String> {
        let trace = self.trace.as_deref()?;
        (self.state == State::Failed).then(|| root_cause(trace))
    }
}

impl ConnectorStatus {
    /// Parses Connect's document.
    ///
    /// # Errors
    /// If the document is malformed.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_str(text)?;
        Ok(Self {
            name: document.name,
            state: document.connector.state,
            cause: document.connector.cause(),
            worker: document.connector.worker_id,
            tasks: document
                .tasks
                .into_iter()
                .map(|task| TaskStatus {
                    id: task.id,
                    state: task.state,
                    cause: task.cause(),
                    worker: task.worker_id,
                })
                .collect(),
        })
    }

    /// Returns true if the connector runs, has at least one task, and all of its tasks run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
            && !self.tasks.is_empty()
            && self.tasks.iter().all(|task| task.state == State::Running)
    }

    /// Returns the root cause of the first failure, or `None` if nothing has failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let unknown = || "no reason given".to_owned();
        if self.state == State::Failed {
            return Some(self.cause.clone().unwrap_or_else(unknown));
        }
        self.tasks
            .iter()
            .find(|task| task.state == State::Failed)
            .map(|task| task.cause.clone().unwrap_or_else(unknown))
    }

    /// Returns a summary, such as `running; task 0 failed`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.state.to_string();
        for task in &self.tasks {
            // Writing into a string cannot fail.
            let _ = write!(text, "; task {} {}", task.id, task.state);
        }
        if self.tasks.is_empty() {
            text.push_str("; no task yet");
        }
        text
    }
}

/// Returns the message of the last `Caused by:` in a Java stack trace, without the class and
/// the stack lines.
#[must_use]
pub fn root_cause(trace: &str) -> String {
    let last = trace.rfind("Caused by: ");
    let text = last.map_or(trace, |at| &trace[at + "Caused by: ".len()..]);
    let is_message = |line: &&str| {
        let line = line.trim_start();
        !(line.starts_with("at ") || line.starts_with("... "))
    };
    let message: Vec<&str> = text
        .lines()
        .take_while(is_message)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let message = message.join(" ");
    match message.split_once(": ") {
        Some((class, rest)) if is_class(class) => rest.to_owned(),
        _ => message,
    }
}

/// Returns true for a class name, such as `org.postgresql.util.PSQLException`.
fn is_class(text: &str) -> bool {
    text.contains('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'$' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cause_is_the_root() {
        let trace = "org.apache.kafka.connect.errors.ConnectException: outer\n\
            \tat io.debezium.A.b(A.java:1)\n\
            Caused by: io.debezium.DebeziumException: middle\n\t... 3 more\n\
            Caused by: org.postgresql.util.PSQLException: FATAL: password authentication failed\n\
            \x20 for user \"app\"\n\tat org.postgresql.C.d(C.java:2)\n\t... 9 more\n";
        assert_eq!(
            root_cause(trace),
            "FATAL: password authentication failed for user \"app\""
        );
    }

    #[test]
    fn a_trace_without_a_cause_gives_its_first_line() {
        for (trace, cause) in [
            ("a.b.C: gone\n\tat x", "gone"),
            ("no class here", "no class here"),
            (
                "java.lang.NullPointerException\n\tat x",
                "java.lang.NullPointerException",
            ),
            ("", ""),
        ] {
            assert_eq!(root_cause(trace), cause);
        }
    }

    #[test]
    fn a_connector_runs_if_all_of_its_tasks_run() {
        let status = |connector: &str, tasks: &str| {
            ConnectorStatus::read(&format!(
                r#"{{"name":"x","connector":{{"state":"{connector}","worker_id":"w"}},"tasks":[{tasks}]}}"#
            ))
            .expect("a status")
        };
        let running = r#"{"id":0,"state":"RUNNING","worker_id":"w"}"#;
        let failed = r#"{"id":1,"state":"FAILED","worker_id":"w","trace":"a.B: why"}"#;
        assert!(status("RUNNING", running).is_running());
        assert!(!status("RUNNING", "").is_running());
        assert!(!status("PAUSED", running).is_running());
        let mixed = status("RUNNING", &format!("{running},{failed}"));
        assert!(!mixed.is_running());
        assert_eq!(mixed.failure().as_deref(), Some("why"));
        assert_eq!(mixed.summary(), "running; task 0 running; task 1 failed");
        assert_eq!(status("SOMETHING_NEW", "").state, State::Unknown);
    }
}
