//! Placeholder values of native services, in addition to the common ones in
//! [`crate::stack::values`].
//!
//! | name | value |
//! |---|---|
//! | `data`, `conf` | the service's folders |
//! | `program.NAME`, `install.NAME` | paths of the required programs and installs |
//! | `project`, `home`, `config`, `fanout` | the project, the home, the configuration file, and the fanout binary |
//! | `random_id` | random, different at each use |

use std::{collections::BTreeMap, path::PathBuf};

use super::render_context::RenderContext;
use crate::{
    stack::{definition::Way, resolve::Service, values},
    text::template::Values,
};

/// Values left out of the fingerprint, because they only say where the service
/// is.
pub(super) const LOCATION_VALUES: [&str; 5] = ["data", "conf", "home", "config", "unique"];

/// Returns the values for one service, run in one way.
pub(super) fn native_values(
    service: &Service,
    way: &Way,
    programs: &BTreeMap<String, PathBuf>,
    context: &RenderContext<'_>,
) -> Result<Values, serde_json::Error> {
    let mut values = values::common_values(service, context.settings)?;
    values.extend(location_values(service, way, context));
    for program in way.programs.keys() {
        let path = programs.get(program);
        let path = path.map_or_else(|| program.clone(), |path| path.display().to_string());
        values.insert(format!("program.{program}"), path);
    }
    for install in &way.installs {
        if let Some(definition) = context.installs.get(install) {
            let folder = context.site.install_folder(definition);
            values.insert(format!("install.{install}"), folder.display().to_string());
        }
    }
    Ok(values)
}

fn location_values(service: &Service, way: &Way, context: &RenderContext<'_>) -> Values {
    let name = &service.definition.name;
    let site = context.site;
    let dir = site.dir();
    let config = site.config_file.as_ref();
    [
        ("data", dir.data(name, &way.variant).display().to_string()),
        ("conf", dir.conf(name).display().to_string()),
        ("home", site.home.path().display().to_string()),
        ("project", site.project.to_string()),
        ("fanout", site.fanout.display().to_string()),
        (
            "config",
            config
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ),
        ("unique", random_id()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Returns 16 random bytes in the format of Kafka's ids: 22 characters of
/// base64.
fn random_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}A", &random[..21])
}
