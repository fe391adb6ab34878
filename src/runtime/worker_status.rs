//! Fetches the status of a running pipeline from its HTTP server.

use std::time::Duration;

use super::status::Status;
use crate::{
    connections::web::{Method, WebServer},
    failure::chain,
};

/// Maximum time to wait for the response of one server.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the status of the project's pipeline at `server`.
///
/// # Errors
/// One line about the failure, also if the pipeline of another project responds.
pub async fn own_pipeline(server: &WebServer, project: &str) -> Result<Status, String> {
    check_project(pipeline(server).await?, project)
}

/// Checks that the status belongs to the project. The pipeline of another project may
/// use the default port.
fn check_project(pipeline: Status, project: &str) -> Result<Status, String> {
    if pipeline.project == project {
        return Ok(pipeline);
    }
    Err(format!(
        "the pipeline of project {} responds at this address",
        pipeline.project
    ))
}

/// Returns the status of the pipeline at `server`.
///
/// # Errors
/// One line about the failure.
pub async fn pipeline(server: &WebServer) -> Result<Status, String> {
    const PATH: &str = "/status";
    let request = async {
        let web = server.client(TIMEOUT)?;
        web.send(Method::GET, PATH, None).await
    };
    let response = request.await.map_err(|error| chain(&error))?;
    let url = server.url().join(PATH);
    if !response.is_success() {
        return Err(format!("GET {url} returned status {}", response.status));
    }
    serde_json::from_str(&response.body)
        .map_err(|error| format!("GET {url} returned an invalid status: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::checks::Standing;

    #[test]
    fn the_pipeline_of_another_project_is_refused() {
        let pipeline = Status {
            format: 1,
            version: String::new(),
            project: "blue".to_owned(),
            pid: 1,
            started_ms: 0,
            source: Standing::default(),
            sinks: Vec::new(),
        };
        assert_eq!(
            check_project(pipeline.clone(), "blue"),
            Ok(pipeline.clone())
        );
        let refused = check_project(pipeline, "red");
        let error = "the pipeline of project blue responds at this address";
        assert_eq!(refused, Err(error.to_owned()));
    }
}
