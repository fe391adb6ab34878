//! Whose a container, a network or a volume is: names and labels. Compose's
//! labels are among them, so that `docker compose -p <project> ps|logs|down`
//! work on what fanout made.

use std::collections::BTreeMap;

use super::digest::sha256;
use crate::{
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::Site,
};

/// The project that it belongs to.
const PROJECT: &str = "dev.fanout.project";

/// The folder of that project: two homes may have projects of one name.
const FOLDER: &str = "dev.fanout.folder";

/// What a container was made with, as JSON: input → digest.
const FINGERPRINT: &str = "dev.fanout.fingerprint";

/// The version of compose whose labels these are.
const COMPOSE_VERSION: &str = "2.29.0";

type Labels = BTreeMap<String, String>;

/// Something of this name is there and not the project's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} is there and was not made by this project{}", made_by(by.as_ref()))]
pub struct Foreign {
    /// `container`, `network` or `volume`.
    pub kind: &'static str,
    pub name: String,
    /// The folder of the project of fanout's that made it, where one did.
    pub by: Option<String>,
}

fn made_by(folder: Option<&String>) -> String {
    folder.map_or_else(String::new, |folder| format!(", but by that of {folder}"))
}

impl Failure for Foreign {
    fn kind(&self) -> Kind {
        Kind::Refused
    }

    fn code(&self) -> &'static str {
        "not_ours"
    }

    fn hint(&self) -> Option<String> {
        Some(format!(
            "remove it (docker {} rm {}), or take another name: fanout --project <name> up",
            self.kind, self.name
        ))
    }
}

/// One project's names and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    project: String,
    folder: String,
}

impl Owner {
    /// Of the project at `site`.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        Self {
            project: site.project.to_string(),
            folder: site.dir().path().display().to_string(),
        }
    }

    /// `fanout-redis-1`, as compose would call it.
    #[must_use]
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    /// `fanout_default`.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    /// `fanout_postgres-17`.
    #[must_use]
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// The label that all that is the project's bears.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("{FOLDER}={}", self.folder)
    }

    /// Refuses what is not the project's.
    ///
    /// # Errors
    /// When the labels are not those of the project.
    pub fn check(&self, kind: &'static str, name: &str, labels: &Labels) -> Result<(), Foreign> {
        let has = |label: &str, value: &String| labels.get(label) == Some(value);
        if has(PROJECT, &self.project) && has(FOLDER, &self.folder) {
            return Ok(());
        }
        Err(Foreign {
            kind,
            name: name.to_owned(),
            by: labels.get(FOLDER).cloned(),
        })
    }

    fn labels(&self, more: impl IntoIterator<Item = (&'static str, String)>) -> Labels {
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
        let more = more.into_iter();
        labels.extend(more.map(|(name, value)| (name.to_owned(), value)));
        labels
    }

    /// A container's.
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

    /// The network's.
    #[must_use]
    pub fn network_labels(&self) -> Labels {
        self.labels([("com.docker.compose.network", "default".to_owned())])
    }

    /// A volume's.
    #[must_use]
    pub fn volume_labels(&self, name: &str) -> Labels {
        self.labels([("com.docker.compose.volume", name.to_owned())])
    }
}

/// What a container says that it was made with.
#[must_use]
pub fn fingerprint(labels: &Labels) -> Fingerprint {
    let text = labels
        .get(FINGERPRINT)
        .map(String::as_str)
        .unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// The service that a container says it is.
#[must_use]
pub fn service(labels: &Labels) -> &str {
    let service = labels.get("com.docker.compose.service");
    service.map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(folder: &str) -> Owner {
        Owner {
            project: "fanout".to_owned(),
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn names_are_those_that_compose_would_give() {
        let owner = owner("/a/fanout");
        assert_eq!(owner.container("redis"), "fanout-redis-1");
        assert_eq!(owner.network(), "fanout_default");
        assert_eq!(owner.volume("postgres-17"), "fanout_postgres-17");
    }

    #[test]
    fn what_it_was_made_with_is_read_back() {
        let made = Fingerprint::from([("env.A".to_owned(), "1".to_owned())]);
        let labels = owner("/a").container_labels("redis", &["x".to_owned()], "redis:8", &made);
        assert_eq!(fingerprint(&labels), made);
        assert_eq!(service(&labels), "redis");
        assert_eq!(labels["com.docker.compose.oneoff"], "False");
        assert_eq!(fingerprint(&Labels::new()), Fingerprint::new());
    }

    #[test]
    fn only_the_projects_own_is_its_own() {
        let ours = owner("/a").volume_labels("x");
        assert_eq!(owner("/a").check("volume", "fanout_x", &ours), Ok(()));
        let error = owner("/b")
            .check("volume", "fanout_x", &ours)
            .expect_err("another's");
        assert_eq!(
            error.to_string(),
            "volume fanout_x is there and was not made by this project, but by that of /a"
        );
        let nobodys = owner("/a").check("network", "fanout_default", &Labels::new());
        let error = nobodys.expect_err("nobody's");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error
                .hint()
                .expect("a hint")
                .contains("docker network rm fanout_default")
        );
    }
}
