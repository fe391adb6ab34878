//! The container spec of a service: its definition with all placeholders filled
//! in, and the fingerprint of the result.

use std::{collections::BTreeMap, time::Duration};

use super::{
    engine::{HealthCheck, LogLimits, NewContainer},
    labels::ResourceLabels,
};
use crate::{
    config::{Runtime, Settings},
    failure::{Error, Kind},
    stack::{
        Site,
        definition::{self, ContainerWay},
        endpoint,
        plan::Fingerprint,
        renderer::{self, TemplateRenderer, settings_error},
        resolve::Service,
        values,
    },
    text::template::Values,
};

/// Specification of a service's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    pub way: ContainerWay,
    pub container: NewContainer,
    /// Files: path inside the container → text.
    pub files: BTreeMap<String, String>,
    /// Volumes: full name → name without the project.
    pub volumes: BTreeMap<String, String>,
    pub fingerprint: Fingerprint,
}

/// Inputs of all container specs.
#[derive(Debug, Clone, Copy)]
pub struct RenderContext<'a> {
    pub site: &'a Site,
    /// Settings with the resolved endpoint of every service.
    pub settings: &'a Settings,
    pub services: &'a [Service],
}

impl RenderContext<'_> {
    /// Returns the address of a service for a container: its network name if it
    /// also runs in a container, otherwise the address in the settings. A
    /// loopback address of this machine is an error, because inside the
    /// container it means the container itself.
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

/// Builds the container spec for the service's image.
///
/// # Errors
/// If the service has no container, cannot reach a service that it needs, or
/// its definition is invalid.
pub fn container_spec(
    service: &Service,
    context: &RenderContext<'_>,
) -> Result<ContainerSpec, Error> {
    let name = &service.definition.name;
    let no_way = || {
        let hint = format!("in fanout.yaml: services: {{{name}: {{runtime: native}}}}");
        let message = format!("{name} cannot run in a container");
        Error::new(Kind::Usage, "no_container", message).with_hint(hint)
    };
    let way = service.container_way(context.settings).ok_or_else(no_way)?;
    let overrides = context.settings.services.get(name);
    let image = overrides.and_then(|service| service.image.as_ref());
    let image = with_tag(image.unwrap_or(&way.image));
    let values = placeholder_values(service, &image, context)?;
    check_credentials(way, &values)?;
    let mut renderer = TemplateRenderer::new(name, &values, &["image.major"]);
    let labels = ResourceLabels::new(context.site);
    let mut container = NewContainer {
        name: labels.container(name),
        network: labels.network(),
        aliases: vec![name.clone()],
        log: LogLimits {
            file_mib: context.settings.limits.log_file_mib,
            files: context.settings.limits.log_files,
        },
        ..NewContainer::default()
    };
    renderer
        .used
        .extend(renderer::LOG_LIMITS.map(str::to_owned));
    renderer.input("image", &image);
    for argument in &way.command {
        container.command.push(renderer.render(argument)?);
    }
    renderer.input("command", &way.command.join("\0"));
    for (variable, text) in &way.env {
        let value = renderer.render(text)?;
        container.env.insert(variable.clone(), value);
        renderer.input(&format!("env.{variable}"), text);
    }
    for (variable, value) in overrides.iter().flat_map(|service| &service.env) {
        container.env.insert(variable.clone(), value.clone());
        renderer.input(&format!("env.{variable}"), value);
    }
    let mut files = BTreeMap::new();
    for (path, asset) in &way.files {
        let text = definition::asset(asset)?;
        files.insert(path.clone(), renderer.render(text)?);
        renderer.input(&format!("files.{path}"), text);
    }
    let mut volumes = BTreeMap::new();
    for (volume, folder) in &way.volumes {
        let volume = renderer.render(volume)?;
        renderer.input(&format!("volumes.{volume}"), folder);
        container
            .volumes
            .insert(labels.volume(&volume), folder.clone());
        volumes.insert(labels.volume(&volume), volume);
    }
    for (port, inner) in &way.ports {
        if let Some(outer) = service.ports.get(port) {
            container.ports.insert(*inner, *outer);
            renderer.input(&format!("ports.{port}"), &format!("{outer}"));
            renderer.input(&format!("inner_ports.{port}"), &format!("{inner}"));
        }
    }
    if let Some(health) = &way.health {
        renderer.input("health", &format!("{health:?}"));
        container.health = Some(HealthCheck {
            command: health.command.clone(),
            interval: Duration::from_secs(health.interval_seconds),
        });
    }
    let fingerprint = renderer.fingerprint();
    let needs = &service.definition.needs;
    container.labels = labels.container_labels(name, needs, &image, &fingerprint);
    container.image = image;
    Ok(ContainerSpec {
        way: way.clone(),
        container,
        files,
        volumes,
        fingerprint,
    })
}

/// Rejects credentials that would break the files that contain them.
/// ClickHouse's image writes such a file itself, with the user's name as a
/// section name.
fn check_credentials(way: &ContainerWay, values: &Values) -> Result<(), Error> {
    const IN_A_FILE: &str = "{{clickhouse.user}}";
    let variables = way.env.values().map(String::as_str);
    let written = variables.filter(|text| text.contains(IN_A_FILE));
    let files = renderer::assets(way.files.values())?;
    let texts: Vec<&str> = files.into_iter().chain(written).collect();
    renderer::check_credentials(&texts, values)
}

fn placeholder_values(
    service: &Service,
    image: &str,
    context: &RenderContext<'_>,
) -> Result<Values, Error> {
    let mut values = values::common_values(service, context.settings).map_err(settings_error)?;
    values.insert("project".to_owned(), context.site.project.to_string());
    values.insert("image.major".to_owned(), major_version(image).to_owned());
    for need in &service.definition.needs {
        match context.inside(need) {
            Ok(Some(address)) => {
                values.insert(format!("inside.{need}"), address);
            }
            Ok(None) => {}
            Err(address) => {
                return Err(out_of_reach(&service.definition.name, need, &address));
            }
        }
    }
    Ok(values)
}

fn out_of_reach(service: &str, needs: &str, address: &str) -> Error {
    let message = format!(
        "{service} runs in a container and cannot reach {needs}, which it needs, at {address}"
    );
    let hint = format!(
        "run both in one way, in fanout.yaml: services: {{{service}: {{runtime: …}}, {needs}: \
         {{runtime: …}}}}"
    );
    Error::new(Kind::Usage, "out_of_reach", message).with_hint(hint)
}

/// Returns the image with a tag. Without one, an engine would pull all tags.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        return image.to_owned();
    }
    format!("{image}:latest")
}

/// Returns the major version in a tag: `postgres:17.2` → `17`,
/// `redpanda:v25.3.6` → `25`, otherwise the whole tag.
fn major_version(image: &str) -> &str {
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
    use crate::{
        failure::Failure as _,
        stack::{Home, docker::discovery::Choice},
    };

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

    /// Returns Connect in a container, with Kafka in a container and Postgres
    /// at the given address.
    fn services(runtime: Runtime, postgres: &str) -> Vec<Service> {
        let all = definition::services().expect("valid definitions");
        let service = |name: &str, runtime, endpoint: &str| Service {
            definition: all
                .iter()
                .find(|definition| definition.name == name)
                .expect("a service")
                .clone(),
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

    fn connect_spec(services: &[Service]) -> Result<ContainerSpec, Error> {
        let (site, settings) = (site(), Settings::default());
        let context = RenderContext {
            site: &site,
            settings: &settings,
            services,
        };
        container_spec(&services[2], &context)
    }

    #[test]
    fn a_container_reaches_another_by_its_name() {
        let here = "postgres://app:app@127.0.0.1:5432/app";
        let spec = connect_spec(&services(Runtime::Docker, here)).expect("a spec");
        let container = spec.container;
        assert_eq!(container.name, "blue-connect-1");
        assert_eq!(container.env["BOOTSTRAP_SERVERS"], "kafka:9092");
        assert_eq!(container.env["GROUP_ID"], "blue-connect");
        assert_eq!(container.ports, BTreeMap::from([(8083, 1234)]));
        let secrets = &spec.files["/etc/fanout/secrets.properties"];
        assert_eq!(secrets.trim(), "postgres_password=app");
        assert!(spec.fingerprint.contains_key("postgres.password"));
        assert!(spec.fingerprint.contains_key("inside.kafka"));
    }

    #[test]
    fn a_container_cannot_reach_this_machines_loopback_address() {
        let here = "postgres://app:app@127.0.0.1:5432/app";
        for runtime in [Runtime::Native, Runtime::External] {
            let error = connect_spec(&services(runtime, here)).expect_err("out of reach");
            assert_eq!(error.code(), "out_of_reach");
            assert!(error.to_string().contains("at 127.0.0.1:5432"), "{error}");
        }
        let elsewhere = "postgres://app:app@db.internal:5432/app";
        connect_spec(&services(Runtime::External, elsewhere)).expect("a spec");
    }

    #[test]
    fn an_image_without_a_tag_gets_latest() {
        assert_eq!(
            with_tag("localhost:5000/redis"),
            "localhost:5000/redis:latest"
        );
        for image in ["redis:8", "redis@sha256:01", "localhost:5000/redis:8"] {
            assert_eq!(with_tag(image), image);
        }
    }

    #[test]
    fn the_major_version_is_read_from_the_tag() {
        for (image, expected) in [
            ("postgres:17", "17"),
            ("localhost:5000/postgres:17.2-alpine", "17"),
            ("redpandadata/redpanda:v25.3.6", "25"),
            ("postgres:17@sha256:0123", "17"),
            ("postgres:bookworm", "bookworm"),
            ("localhost:5000/postgres", "latest"),
        ] {
            assert_eq!(major_version(image), expected, "{image}");
        }
    }
}
