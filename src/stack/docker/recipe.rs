//! A way to run a service as a container, with everything filled in, and the
//! fingerprint of it all.

use std::{collections::BTreeMap, time::Duration};

use super::owner::Owner;
use crate::{
    clients::docker::{HealthCheck, LogLimits, NewContainer},
    config::{Runtime, Settings},
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::{
        Site,
        definition::{self, ContainerWay},
        endpoint,
        filler::{self, FillError, Filler},
        resolve::Service,
        values,
    },
    template::Values,
};

/// A service ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub way: ContainerWay,
    pub container: NewContainer,
    /// Path inside → text.
    pub files: BTreeMap<String, String>,
    /// Volumes of the container, without the project in their names.
    pub volumes: BTreeMap<String, String>,
    pub fingerprint: Fingerprint,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("there is no container of {service}")]
    NoWay { service: String },
    #[error(
        "{service} runs in a container, and {needs}, which it needs, is at {at}: out of its reach"
    )]
    OutOfReach {
        service: String,
        needs: String,
        at: String,
    },
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl Failure for RecipeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoWay { .. } | Self::OutOfReach { .. } => Kind::Usage,
            Self::Fill(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoWay { .. } => "no_container",
            Self::OutOfReach { .. } => "out_of_reach",
            Self::Fill(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoWay { service } => Some(format!(
                "in fanout.yaml: services: {{{service}: {{runtime: native}}}}"
            )),
            Self::OutOfReach { service, needs, .. } => Some(format!(
                "run both in one way, in fanout.yaml: services: {{{service}: {{runtime: …}}, {needs}: {{runtime: …}}}}"
            )),
            Self::Fill(error) => error.hint(),
        }
    }
}

/// What all recipes are made with.
#[derive(Debug, Clone, Copy)]
pub struct Kitchen<'a> {
    pub site: &'a Site,
    /// With every service where it shall be.
    pub settings: &'a Settings,
    pub services: &'a [Service],
}

impl Kitchen<'_> {
    /// Where a container finds a service: by its name on the network where it
    /// is a container too, else where the settings say, unless that is this
    /// machine's loopback, which is the container's own there.
    fn inside(&self, name: &str) -> Result<Option<String>, String> {
        let Some(service) = self
            .services
            .iter()
            .find(|service| service.definition.name == name)
        else {
            return Ok(None);
        };
        if service.runtime == Runtime::Docker {
            let way = service.container_way(self.settings);
            return Ok(way.and_then(|way| way.inside.clone()));
        }
        match endpoint::host_and_port(service.endpoint.reveal()) {
            Some((host, port)) if !endpoint::is_loopback(&host) => {
                Ok(Some(format!("{host}:{port}")))
            }
            Some((host, port)) => Err(format!("{host}:{port}")),
            None => Ok(None),
        }
    }
}

/// Fills in the way that the service's image is run.
///
/// # Errors
/// When there is none, it needs what it cannot reach, or its definition does
/// not hold together.
pub fn recipe(service: &Service, kitchen: &Kitchen<'_>) -> Result<Recipe, RecipeError> {
    let name = &service.definition.name;
    let no_way = || RecipeError::NoWay {
        service: name.clone(),
    };
    let way = service.container_way(kitchen.settings).ok_or_else(no_way)?;
    let wishes = kitchen.settings.services.get(name);
    let image = wishes.and_then(|wishes| wishes.image.as_ref());
    let image = tagged(image.unwrap_or(&way.image));
    let values = fillings(service, &image, kitchen)?;
    check_credentials(way, &values)?;
    let mut filler = Filler::new(name, &values, &["image.major"]);
    let owner = Owner::of(kitchen.site);
    let mut container = NewContainer {
        name: owner.container(name),
        network: owner.network(),
        aliases: vec![name.clone()],
        log: LogLimits {
            file_mib: kitchen.settings.limits.log_file_mib,
            files: kitchen.settings.limits.log_files,
        },
        ..NewContainer::default()
    };
    filler.used.extend(filler::LOG_LIMITS.map(str::to_owned));
    filler.input("image", &image);
    for argument in &way.command {
        container.command.push(filler.fill(argument)?);
    }
    filler.input("command", &way.command.join("\0"));
    for (variable, text) in &way.env {
        let value = filler.fill(text)?;
        container.env.insert(variable.clone(), value);
        filler.input(&format!("env.{variable}"), text);
    }
    for (variable, value) in wishes.iter().flat_map(|wishes| &wishes.env) {
        container.env.insert(variable.clone(), value.clone());
        filler.input(&format!("env.{variable}"), value);
    }
    let mut files = BTreeMap::new();
    for (path, asset) in &way.files {
        let text = definition::asset(asset).map_err(FillError::from)?;
        files.insert(path.clone(), filler.fill(text)?);
        filler.input(&format!("files.{path}"), text);
    }
    let mut volumes = BTreeMap::new();
    for (volume, folder) in &way.volumes {
        let volume = filler.fill(volume)?;
        filler.input(&format!("volumes.{volume}"), folder);
        container
            .volumes
            .insert(owner.volume(&volume), folder.clone());
        volumes.insert(owner.volume(&volume), volume);
    }
    for (port, inner) in &way.ports {
        if let Some(outer) = service.ports.get(port) {
            container.ports.insert(*inner, *outer);
            filler.input(&format!("ports.{port}"), &format!("{outer}"));
            filler.input(&format!("inner_ports.{port}"), &format!("{inner}"));
        }
    }
    if let Some(health) = &way.health {
        filler.input("health", &format!("{health:?}"));
        container.health = Some(HealthCheck {
            command: health.command.clone(),
            interval: Duration::from_secs(health.interval_seconds),
        });
    }
    let fingerprint = filler.fingerprint();
    let needs = &service.definition.needs;
    container.labels = owner.container_labels(name, needs, &image, &fingerprint);
    container.image = image;
    Ok(Recipe {
        way: way.clone(),
        container,
        files,
        volumes,
        fingerprint,
    })
}

/// Refuses what would break the files that it is written into. ClickHouse's
/// image writes one itself, with the user's name as that of a section.
fn check_credentials(way: &ContainerWay, values: &Values) -> Result<(), FillError> {
    const IN_A_FILE: &str = "{{clickhouse.user}}";
    let variables = way.env.values().map(String::as_str);
    let written = variables.filter(|text| text.contains(IN_A_FILE));
    let files = filler::assets(way.files.values())?;
    let texts: Vec<&str> = files.into_iter().chain(written).collect();
    filler::check_credentials(&texts, values)
}

fn fillings(service: &Service, image: &str, kitchen: &Kitchen<'_>) -> Result<Values, RecipeError> {
    let mut values = values::of(service, kitchen.settings).map_err(FillError::from)?;
    values.insert("project".to_owned(), kitchen.site.project.to_string());
    values.insert("image.major".to_owned(), major(image).to_owned());
    for need in &service.definition.needs {
        match kitchen.inside(need) {
            Ok(Some(place)) => {
                values.insert(format!("inside.{need}"), place);
            }
            Ok(None) => {}
            Err(at) => {
                return Err(RecipeError::OutOfReach {
                    service: service.definition.name.clone(),
                    needs: need.clone(),
                    at,
                });
            }
        }
    }
    Ok(values)
}

/// The image with a tag: for one without, an engine fetches every tag there is.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        return image.to_owned();
    }
    format!("{image}:latest")
}

/// `postgres:17.2` → `17`, `redpanda:v25.3.6` → `25`, else the whole tag.
fn major(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let Some((_, tag)) = last.split_once(':') else {
        return "latest";
    };
    let tag = tag.split('@').next().unwrap_or(tag);
    let number = tag.strip_prefix('v').unwrap_or(tag);
    let end = number
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(number.len());
    if end == 0 { tag } else { &number[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Home, docker::surroundings::Choice};

    fn site() -> Site {
        Site {
            project: "blue".parse().expect("a name"),
            home: Home::at(std::path::Path::new("/nowhere")),
            cache: "/nowhere".into(),
            fanout: "/nowhere".into(),
            config_file: None,
            docker: Choice::default(),
        }
    }

    /// Connect in a container, and what it needs where it is said to run.
    fn services(runtime: Runtime, postgres: &str) -> Vec<Service> {
        let all = definition::services().expect("valid definitions");
        let service = |name: &str, runtime, endpoint: &str| Service {
            definition: all.iter().find(|one| one.name == name).expect("it").clone(),
            runtime,
            ports: BTreeMap::from([("main".to_owned(), 1234)]),
            endpoint: endpoint.into(),
        };
        vec![
            service("postgres", runtime, postgres),
            service("kafka", Runtime::Docker, "127.0.0.1:19092"),
            service("connect", Runtime::Docker, "http://127.0.0.1:8083"),
        ]
    }

    fn of_connect(services: &[Service]) -> Result<Recipe, RecipeError> {
        let (site, settings) = (site(), Settings::default());
        let kitchen = Kitchen {
            site: &site,
            settings: &settings,
            services,
        };
        recipe(&services[2], &kitchen)
    }

    #[test]
    fn a_container_finds_another_by_its_name() {
        let here = "postgres://app:app@127.0.0.1:5432/app";
        let recipe = of_connect(&services(Runtime::Docker, here)).expect("a recipe");
        let container = recipe.container;
        assert_eq!(container.name, "blue-connect-1");
        assert_eq!(container.env["BOOTSTRAP_SERVERS"], "kafka:9092");
        assert_eq!(container.env["GROUP_ID"], "blue-connect");
        assert_eq!(container.ports, BTreeMap::from([(8083, 1234)]));
        let secrets = &recipe.files["/etc/fanout/secrets.properties"];
        assert_eq!(secrets.trim(), "postgres_password=app");
        assert!(recipe.fingerprint.contains_key("postgres.password"));
        assert!(recipe.fingerprint.contains_key("inside.kafka"));
    }

    #[test]
    fn what_is_on_this_machines_loopback_is_out_of_a_containers_reach() {
        let here = "postgres://app:app@127.0.0.1:5432/app";
        for runtime in [Runtime::Native, Runtime::External] {
            let error = of_connect(&services(runtime, here)).expect_err("out of reach");
            assert_eq!(error.code(), "out_of_reach");
            assert!(error.to_string().contains("at 127.0.0.1:5432"), "{error}");
        }
        let elsewhere = "postgres://app:app@db.internal:5432/app";
        of_connect(&services(Runtime::External, elsewhere)).expect("a recipe");
    }

    #[test]
    fn an_image_without_a_tag_is_the_latest_one() {
        assert_eq!(
            tagged("localhost:5000/redis"),
            "localhost:5000/redis:latest"
        );
        for image in ["redis:8", "redis@sha256:01", "localhost:5000/redis:8"] {
            assert_eq!(tagged(image), image);
        }
    }

    #[test]
    fn a_tag_has_a_major_version() {
        for (image, expected) in [
            ("postgres:17", "17"),
            ("localhost:5000/postgres:17.2-alpine", "17"),
            ("redpandadata/redpanda:v25.3.6", "25"),
            ("postgres:17@sha256:0123", "17"),
            ("postgres:bookworm", "bookworm"),
            ("localhost:5000/postgres", "latest"),
        ] {
            assert_eq!(major(image), expected, "{image}");
        }
    }
}
