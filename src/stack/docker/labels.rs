//! Names and labels of a project's containers, networks and volumes. They
//! include compose's labels, so that `docker compose -p <project> ps|logs|down`
//! work on fanout's projects.

use std::collections::BTreeMap;

use super::digest::sha256;
use crate::{
    failure::{Command, Error, Hint, Kind, Word},
    stack::{Site, plan::Fingerprint},
};

/// Label with the project.
const PROJECT: &str = "dev.fanout.project";

/// Label with the project's folder, because two homes may have projects with
/// the same name.
const FOLDER: &str = "dev.fanout.folder";

/// Label with a container's fingerprint as JSON: input → digest.
const FINGERPRINT: &str = "dev.fanout.fingerprint";

/// Version of compose whose labels are used.
const COMPOSE_VERSION: &str = "2.29.0";

type Labels = BTreeMap<String, String>;

fn describe_creator(folder: Option<&String>) -> String {
    folder.map_or_else(String::new, |folder| {
        format!(", but by the one in {folder}")
    })
}

/// Returns the error for a container, network or volume whose name is used by
/// something else. `creator` is the folder of the fanout project that created
/// it, if any.
fn foreign(kind: &str, name: &str, creator: Option<&String>) -> Error {
    let creator = describe_creator(creator);
    let message = format!("{kind} {name} exists and was not created by this project{creator}");
    let remove = format!("remove it (docker {kind} rm {name}), or use another name: ");
    let up = Command::new("up").global_flag("--project", Word::Placeholder("<name>"));
    Error::new(Kind::Refused, "not_ours", message).with_hint(Hint::from(remove).command(up))
}

/// Names and labels of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceLabels {
    project: String,
    folder: String,
}

impl ResourceLabels {
    /// Returns the names and labels of the project at `site`.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            project: site.project.to_string(),
            folder: site.dir().path().display().to_string(),
        }
    }

    /// Returns the name of a service's container, in compose's format:
    /// `fanout-redis-1`.
    #[must_use]
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    /// Returns the name of the network: `fanout_default`.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    /// Returns the full name of a volume: `fanout_postgres-17`.
    #[must_use]
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Returns the label that selects the project's resources.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("{FOLDER}={}", self.folder)
    }

    /// Checks that a resource belongs to the project.
    ///
    /// # Errors
    /// If the labels are not those of the project.
    pub fn check(&self, kind: &str, name: &str, labels: &Labels) -> Result<(), Error> {
        let has = |label: &str, value: &String| labels.get(label) == Some(value);
        if has(PROJECT, &self.project) && has(FOLDER, &self.folder) {
            return Ok(());
        }
        Err(foreign(kind, name, labels.get(FOLDER)))
    }

    fn labels(&self, extra: impl IntoIterator<Item = (&'static str, String)>) -> Labels {
        let mut labels = Labels::from([
            (PROJECT.to_owned(), self.project.clone()),
            (FOLDER.to_owned(), self.folder.clone()),
            (
                "com.docker.compose.project".to_owned(),
                self.project.clone(),
            ),
            (
                "com.docker.compose.version".to_owned(),
                COMPOSE_VERSION.to_owned(),
            ),
        ]);
        let extra = extra.into_iter();
        labels.extend(extra.map(|(name, value)| (name.to_owned(), value)));
        labels
    }

    /// Returns the labels of a container.
    #[must_use]
    pub fn container_labels(
        &self,
        service: &str,
        needs: &[String],
        image: &str,
        fingerprint: &Fingerprint,
    ) -> Labels {
        let text = serde_json::to_string(fingerprint).unwrap_or_default();
        let hash = sha256(text.as_bytes());
        let needs = needs.iter();
        let needs: Vec<String> = needs
            .map(|need| format!("{need}:service_healthy:false"))
            .collect();
        self.labels([
            (FINGERPRINT, text),
            ("com.docker.compose.service", service.to_owned()),
            ("com.docker.compose.container-number", "1".to_owned()),
            ("com.docker.compose.oneoff", "False".to_owned()),
            ("com.docker.compose.config-hash", hash),
            ("com.docker.compose.image", image.to_owned()),
            ("com.docker.compose.depends_on", needs.join(",")),
            (
                "com.docker.compose.project.working_dir",
                self.folder.clone(),
            ),
            ("com.docker.compose.project.config_files", String::new()),
        ])
    }

    /// Returns the labels of the network.
    #[must_use]
    pub fn network_labels(&self) -> Labels {
        self.labels([("com.docker.compose.network", "default".to_owned())])
    }

    /// Returns the labels of a volume.
    #[must_use]
    pub fn volume_labels(&self, name: &str) -> Labels {
        self.labels([("com.docker.compose.volume", name.to_owned())])
    }
}

/// Returns the fingerprint in a container's labels.
#[must_use]
pub fn fingerprint(labels: &Labels) -> Fingerprint {
    let text = labels
        .get(FINGERPRINT)
        .map(String::as_str)
        .unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// Returns the service in a container's labels.
#[must_use]
pub fn service(labels: &Labels) -> &str {
    let service = labels.get("com.docker.compose.service");
    service.map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure as _;

    fn owner(folder: &str) -> ResourceLabels {
        ResourceLabels {
            project: "fanout".to_owned(),
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn names_follow_composes_format() {
        let owner = owner("/a/fanout");
        assert_eq!(owner.container("redis"), "fanout-redis-1");
        assert_eq!(owner.network(), "fanout_default");
        assert_eq!(owner.volume("postgres-17"), "fanout_postgres-17");
    }

    #[test]
    fn the_fingerprint_is_read_from_the_labels() {
        let fingerprint_input = Fingerprint::from([("env.A".to_owned(), "1".to_owned())]);
        let labels =
            owner("/a").container_labels("redis", &["x".to_owned()], "redis:8", &fingerprint_input);
        assert_eq!(fingerprint(&labels), fingerprint_input);
        assert_eq!(service(&labels), "redis");
        assert_eq!(labels["com.docker.compose.oneoff"], "False");
        assert_eq!(fingerprint(&Labels::new()), Fingerprint::new());
    }

    #[test]
    fn resources_of_another_project_or_none_are_foreign() {
        let labels = owner("/a").volume_labels("x");
        let own = owner("/a").check("volume", "fanout_x", &labels);
        own.expect("a volume of the project");
        let error = owner("/b")
            .check("volume", "fanout_x", &labels)
            .expect_err("another project");
        assert_eq!(
            error.to_string(),
            "volume fanout_x exists and was not created by this project, but by the one in /a"
        );
        let unlabelled = owner("/a").check("network", "fanout_default", &Labels::new());
        let error = unlabelled.expect_err("no labels");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error
                .hint()
                .expect("a hint")
                .contains("docker network rm fanout_default")
        );
    }
}
