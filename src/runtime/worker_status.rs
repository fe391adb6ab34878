//! What a running pipeline says of itself, asked at the address that it serves.

use std::time::Duration;

use super::status::Status;
use crate::{
    connections::web::{Method, WebServer},
    failure::chain,
};

/// How long one server may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// What the project's own pipeline, whose HTTP this is, says of itself.
///
/// # Errors
/// What went wrong, as one line; also where another project's answers.
pub async fn own_pipeline(server: &WebServer, project: &str) -> Result<Status, String> {
    of_project(pipeline(server).await?, project)
}

/// Another project's pipeline may have the port that is the usual one.
fn of_project(pipeline: Status, project: &str) -> Result<Status, String> {
    if pipeline.project == project {
        return Ok(pipeline);
    }
    Err(format!(
        "the pipeline of project {} answers there",
        pipeline.project
    ))
}

/// What the pipeline whose HTTP this is says of itself.
///
/// # Errors
/// What went wrong, as one line.
pub async fn pipeline(server: &WebServer) -> Result<Status, String> {
    const PATH: &str = "/status";
    let answer = async {
        let web = server.client(PATIENCE)?;
        web.send(Method::GET, PATH, None).await
    };
    let answer = answer.await.map_err(|error| chain(&error))?;
    let url = server.url().join(PATH);
    if !answer.is_success() {
        return Err(format!("GET {url} answered {}", answer.status));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("GET {url} is no status: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::checks::Standing;

    #[test]
    fn another_projects_pipeline_is_not_this_ones() {
        let pipeline = Status {
            format: 1,
            version: String::new(),
            project: "blue".to_owned(),
            pid: 1,
            started_ms: 0,
            source: Standing::default(),
            sinks: Vec::new(),
        };
        assert_eq!(of_project(pipeline.clone(), "blue"), Ok(pipeline.clone()));
        let other = of_project(pipeline, "red");
        let answers = "the pipeline of project blue answers there";
        assert_eq!(other, Err(answers.to_owned()));
    }
}
